"""Values cross without loss and without a codec per type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.values import BOOL, INT2, INT4, INT8, PINNED_SETTINGS, converter, is_value_of, startup_options


def test_type_numbers_are_those_of_pg_type() -> None:
    assert (BOOL, INT8, INT2, INT4) == (16, 20, 21, 23)


@pytest.mark.parametrize("oid", [INT2, INT4, INT8])
@given(value=st.integers(-(2**63), 2**63 - 1))
def test_integers_are_jsons_own(oid: int, value: int) -> None:
    assert converter(oid)(b"%d" % value) == value


def test_booleans_are_jsons_own() -> None:
    assert converter(BOOL)(b"t") is True
    assert converter(BOOL)(b"f") is False


@pytest.mark.parametrize(
    ("oid", "text"),
    [
        (1700, "1.10"),
        (1700, "NaN"),
        (701, "-Infinity"),
        (1184, "infinity"),
        (1184, "0044-03-15 12:00:00+00 BC"),
        (3802, "null"),
        (3802, "1"),
        (1007, "{1,NULL,3}"),
        (26, "4294967295"),
        (16_396, "5"),
        (25, ""),
        (25, "café 😀"),
    ],
)
def test_everything_else_is_postgres_own_text(oid: int, text: str) -> None:
    """A number too: JSON has no NaN, no trailing zero and no domain over integer."""
    assert converter(oid)(text.encode()) == text


@pytest.mark.parametrize(
    ("oid", "value", "possible"),
    [
        (INT2, 2**15 - 1, True),
        (INT2, 2**15, False),
        (INT4, -(2**31), True),
        (INT4, 2**31, False),
        (INT8, 2**63 - 1, True),
        (INT8, 2**63, False),
        (INT8, "1", False),
        (INT8, True, False),
        (INT8, 1.0, False),
        (BOOL, True, True),
        (BOOL, 1, False),
        (BOOL, "t", False),
        (25, "x", True),
        (25, "x\0", False),
        (25, 1, False),
        (25, None, False),
    ],
)
def test_a_value_is_known_by_the_type_that_it_could_come_from(oid: int, value: object, possible: bool) -> None:
    assert is_value_of(oid, value) is possible


def test_a_walsender_gets_every_pinned_setting() -> None:
    """libpq's `options` splits at spaces unless they are escaped."""
    options = startup_options().replace("\\ ", "\0").split(" ")
    pairs = [option.replace("\0", " ") for option in options if option != "-c"]
    assert dict(pair.split("=", 1) for pair in pairs) == PINNED_SETTINGS
    assert options[::2] == ["-c"] * len(PINNED_SETTINGS)
