"""The error model and the statuses: small, documented, and the same numbers as in the native core."""

import inspect
import re
from pathlib import Path

import pytest

import kvstore
from kvstore import errors
from kvstore.status import Status

ROOT = Path(__file__).parents[1]
LEAVES = [getattr(errors, name) for name in errors.__all__ if name != "KVStoreError"]


def test_one_base_and_at_most_ten_leaves():
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert defined == set(errors.__all__)
    assert len(LEAVES) <= 10
    assert all(issubclass(leaf, errors.KVStoreError) for leaf in LEAVES)


def test_errors_fit_on_one_screen():
    assert len(Path(errors.__file__).read_text().splitlines()) <= 70


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_each_error_says_what_it_means(leaf):
    assert leaf.__doc__ != leaf.__mro__[1].__doc__
    assert str(leaf("the message")) == "the message"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InvalidArgumentError, ValueError),
        (errors.ConfigError, ValueError),
        (errors.ConnectError, ConnectionError),
        (errors.UnsupportedError, NotImplementedError),
    ],
)
def test_errors_are_caught_as_their_builtin_kin(error, builtin):
    with pytest.raises(builtin, match="why"):
        raise error("why")


def test_statuses_mirror_the_native_header():
    header = (ROOT / "native/src/base/status.h").read_text()
    native = re.findall(r"^\s*k(\w+) = (\d+),\s*//", header, re.MULTILINE)
    snake = [(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper(), int(number)) for name, number in native]
    assert snake == [(status.name, status.value) for status in Status]


def test_each_status_is_documented():
    source = inspect.getsource(Status)
    for status in Status:
        assert re.search(rf'^    {status.name} = {status.value}\n    """.+"""$', source, re.MULTILINE), status


def test_public_names_resolve_or_are_the_clients():
    # The clients load the native core and have tests of their own; here only: what is promised is what is listed.
    assert set(dir(kvstore)) == set(kvstore.__all__)
    for name in set(kvstore.__all__) - {"AsyncClient", "Client", "connect", "connect_async"}:
        assert getattr(kvstore, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        kvstore.nonsense  # noqa: B018
