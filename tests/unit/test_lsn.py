"""LSNs between PostgreSQL's text and the program's integers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.lsn import format_lsn, parse_lsn


@pytest.mark.parametrize(
    ("text", "lsn"),
    [
        ("0/0", 0),
        ("16/B374D848", 0x16_B374D848),
        ("1/0", 1 << 32),
        ("0/FFFFFFFF", 2**32 - 1),
        ("FFFFFFFF/1", (2**32 - 1 << 32) + 1),
    ],
)
def test_the_text_is_postgres_own(text: str, lsn: int) -> None:
    assert parse_lsn(text) == lsn
    assert format_lsn(lsn) == text


@given(st.integers(0, 2**64 - 1))
def test_formatting_is_the_inverse_of_parsing(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


@pytest.mark.parametrize("text", ["", "/", "0", "0/", "/0", "0/0/0", "x/0", "0/G", "16-B374D848"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_lsn(text)


@pytest.mark.parametrize("text", ["-1/0", "0/-1", "1_0/0", "0x1/0", " 1/0", "1/0\n", "0/123456789", "123456789/0"])
def test_what_only_python_takes_for_hexadecimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_lsn(text)
