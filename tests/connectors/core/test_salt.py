"""Several things that keep blocks apart, as one salt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.connectors.core import join_salts

parts = st.dictionaries(st.sampled_from(["a", "b", "ab", "salt"]), st.binary(max_size=3))


@given(parts, parts)
def test_salts_are_equal_exactly_when_their_parts_are(one, other):
    def filled(named):
        return {name: value for name, value in named.items() if value}

    assert (join_salts(**one) == join_salts(**other)) == (filled(one) == filled(other))


def test_nothing_is_no_salt():
    assert join_salts() == join_salts(salt="", adapter=b"") == b""


def test_the_encoding_is_frozen():
    assert join_salts(salt="tenant a", adapter=b"style@1").hex() == (
        "cb1ae7c448f33b4036104c3bd012be1595021fbbfcce9758852e02fe1dbb9bb1"
    )
    assert join_salts(salt="é") == join_salts(salt="é".encode())
    assert len(join_salts(salt="x" * 10_000)) == 32
