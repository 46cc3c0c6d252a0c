"""Columns of two tables in which the same value has the same text on both servers, though its type may be another.

What changes without a write, and what a tie decides, is no difference: picks whose order leaves ties are left out, and
arrays are taken without order. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from consumers.identifiers import doubled, quoted

_INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})
_NUMBERS: Final = _INTEGERS | {"numeric"}
_TEXTS: Final = frozenset({"text", "character varying"})
_TIMES: Final = frozenset({"timestamp without time zone", "timestamp with time zone"})
_DOCUMENTS: Final = frozenset({"json", "jsonb"})
_MODIFIER: Final = re.compile(r"\([\d, -]*\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What of each column is compared: SQL over a row `r`, the same for both sides."""

    columns: Mapping[str, str]
    """Name → expression; its value is text."""
    left_out: tuple[str, ...]
    """Columns that both sides have, and that are not compared."""

    @property
    def row_hash(self) -> str:
        # Of bytes, so that neither a server's encoding nor a ban on md5 matters.
        return f"sha256(convert_to(ROW({', '.join(self.columns.values())})::text, 'UTF8'))"

    @property
    def column_hashes(self) -> str:
        hashes = (f"left(encode(sha256(convert_to({text}, 'UTF8')), 'hex'), 16)" for text in self.columns.values())
        return f"ARRAY[{', '.join(hashes)}]::text[]"


def texts(
    source: Sequence[tuple[str, str]], target: Mapping[str, str], unstable: Iterable[str], own: Iterable[str]
) -> Texts:
    """`source`, `target`: columns with their types, as format_type prints them; `own`: what the target makes itself."""
    ties, made = set(unstable), set(own)
    found: dict[str, str] = {}
    left_out = []
    for name, kind in source:
        if name not in target:
            continue
        text = None if name in made else _text(f"r.{doubled(quoted(name))}", kind, target[name], is_tied=name in ties)
        if text is None:
            left_out.append(name)
        else:
            found[name] = text
    return Texts(columns=found, left_out=tuple(left_out))


def _text(value: str, there: str, here: str, *, is_tied: bool) -> str | None:
    kinds = {_MODIFIER.sub("", there), _MODIFIER.sub("", here)}
    if kinds <= _DOCUMENTS:
        kind = "jsonb" if "jsonb" in kinds else "json"
        return _unordered(value, kind) if is_tied else f"{value}::{kind}::text"
    if is_tied:
        return _unordered_array(value) if len(kinds) == 1 and kinds.pop().endswith("[]") else None
    if len(kinds) == 1 or kinds <= _INTEGERS or kinds <= _TEXTS:
        return f"{value}::text"
    if kinds <= _NUMBERS:
        return f"trim_scale({value}::numeric)::text"
    return f"{value}::timestamptz::text" if kinds <= _TIMES else None


def _unordered(value: str, kind: str) -> str:
    elements = _joined(f"{kind}_array_elements({value}::{kind})")
    return f"CASE WHEN {kind}_typeof({value}::{kind}) = 'array' THEN {elements} ELSE {value}::{kind}::text END"


def _unordered_array(value: str) -> str:
    return f"CASE WHEN {value} IS NOT NULL THEN concat(array_dims({value}), {_joined(f'unnest({value})')}) END"


def _joined(elements: str) -> str:
    return (
        "(SELECT coalesce(string_agg(ROW(e.v)::text, ',' ORDER BY ROW(e.v)::text COLLATE \"C\"), '')"
        f" FROM {elements} AS e (v))"
    )
