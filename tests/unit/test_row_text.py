"""The same value has the same text on both sides, whatever its two types; what a tie decides is no difference."""

from __future__ import annotations

import pytest

from consumers.row_text import texts


@pytest.mark.parametrize(
    ("there", "here", "text"),
    [
        ("integer", "bigint", 'r."c"::text'),
        ("character varying(50)", "text", 'r."c"::text'),
        ("numeric(10,2)", "numeric(12,4)", 'r."c"::text'),
        ("integer", "numeric", 'trim_scale(r."c"::numeric)::text'),
        ("json", "json", 'r."c"::json::text'),
        ("json", "jsonb", 'r."c"::jsonb::text'),
        ("timestamp(6) without time zone", "timestamp with time zone", 'r."c"::timestamptz::text'),
        ("text", "integer", None),
        ("boolean", "text", None),
    ],
)
def test_types_that_print_alike_are_compared_and_others_are_named(there: str, here: str, text: str | None) -> None:
    found = texts([("c", there)], {"c": here}, (), ())
    assert found.columns == ({"c": text} if text else {})
    assert found.left_out == (() if text else ("c",))


def test_what_the_target_lacks_or_makes_itself_is_not_compared() -> None:
    found = texts([("a", "text"), ("b", "text"), ("c", "text")], {"a": "text", "b": "text"}, (), ["b"])
    assert (list(found.columns), found.left_out) == (["a"], ("b",))


def test_ties_leave_picks_out_and_arrays_without_order() -> None:
    kinds = {"pick": "text", "document": "jsonb", "list": "integer[]"}
    found = texts(list(kinds.items()), kinds, list(kinds), ())
    assert found.left_out == ("pick",)
    assert "jsonb_array_elements" in found.columns["document"]
    assert "ORDER BY" in found.columns["list"]
