"""A node for the tests of a file."""

from __future__ import annotations

import pytest

from tests.support.node import Node


@pytest.fixture(scope="module")
def one_node(tmp_path_factory):
    with Node(tmp_path_factory.mktemp("node"), "--threads", "1", memory="128MiB") as running:
        yield running


@pytest.fixture
def node(one_node):
    """A node in which nothing has happened yet, whatever earlier tests did to it."""
    one_node.renew()
    return one_node
