"""The measured blocks of docs/benchmarks.md: tables and plots between two markers, prose by hand around them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bench.measured import Measured, Part, shown

BEGIN: Final = "<!-- measured: {name} -->"
END: Final = "<!-- end -->"
NOT_YET: Final = "Not measured yet."
MANY: Final = 100
"""Values, of which a p99 says more than their most."""
COLUMNS: Final[Mapping[str, Callable[[Measured], float]]] = {
    "median": lambda each: each.median,
    "p99": lambda each: each.at(0.99),
    "least": lambda each: min(each.values),
    "most": lambda each: max(each.values),
}


def block(part: Part, found: dict[str, Any], plots: Sequence[tuple[str, str]]) -> str:
    """Of one part; `found` says where it was measured, `plots` are (title, address)."""
    machine, versions = found["machine"], found["versions"]
    columns = [column for column in COLUMNS if column != "p99" or any(len(m.values) >= MANY for m in part.measured)]
    lines = [
        f"{part.on[0].upper()}{part.on[1:]}.",
        "",
        f"| | {' | '.join(columns)} | |",
        f"|---{'|---:' * len(columns)}|---|",
    ]
    for each in part.measured:
        figures = [COLUMNS[column](each) for column in columns]
        lines.append(f"| {each.what} | {' | '.join(map(shown, figures))} | {each.unit} |")
    if part.ratios:
        lines += ["", "| ratio | | |", "|---|---:|---|"]
        lines += [f"| {ratio.what} | {shown(ratio.value)} | {ratio.says} |" for ratio in part.ratios]
    for note in part.notes:
        lines += ["", note]
    for title, address in plots:
        lines += ["", f"![{title}]({address})"]
    memory = f"{machine['memory_bytes'] / 1e9:.0f} GB"
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    where = f"{machine['cores']} cores ({machine['processor']}), {memory}, {machine['system']}"
    lines += ["", f"<sub>`{found['command']}` on {where}; {names}</sub>"]
    return "\n".join(lines)


def put(text: str, name: str, measured: str) -> str:
    """The page with this part's block instead of the old one. Raises ValueError if it has no place for it."""
    begin = BEGIN.format(name=name)
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"the page has no place between {begin} and {END}")
    return f"{before}{begin}\n{measured}\n{END}{after}"
