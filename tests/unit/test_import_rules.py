"""The arrows of ARCHITECTURE.md hold: data flows down, imports point up, pure modules do no I/O and no logging."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("replicator", "consumers")
LEAST_PURE = 55
"""How many modules say so at the least: a contract that lost the word would not be looked at."""
HARMLESS = {  # libraries that read and write nothing and say nothing; whatever is not named here is refused
    *("__future__", "abc", "array", "base64", "bisect", "collections", "contextlib", "copy", "dataclasses", "datetime"),
    *("difflib",),
    *("decimal", "enum", "functools", "graphlib", "hashlib", "heapq", "itertools", "json", "math", "operator", "re"),
    *("secrets", "string", "struct", "textwrap", "threading", "typing", "unicodedata", "uuid", "weakref", "zlib"),
    *("orjson", "pglast", "re2"),
}


def modules(package: str) -> dict[str, Path]:
    return {module_name(path): path for path in sorted((ROOT / package).rglob("*.py"))}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


OURS = {name: path for package in PACKAGES for name, path in modules(package).items()}
PURE = {
    name for name, path in OURS.items() if re.search(r"\bPure\b", ast.get_docstring(ast.parse(path.read_text())) or "")
}


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere, under TYPE_CHECKING and inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in OURS else str(node.module))
    return found


def package_of(module: str) -> str:
    return module.partition(".")[0]


def test_the_imports_have_no_cycle() -> None:
    graph = {name: imports(path) & OURS.keys() for name, path in OURS.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle
    assert order.index("replicator.errors") < order.index("replicator.pipeline")


def test_replicator_never_imports_consumers() -> None:
    wrong = {name for name, path in modules("replicator").items() if "consumers" in map(package_of, imports(path))}
    assert not wrong


def test_consumers_import_only_the_contract_and_the_runtime() -> None:
    allowed = {"replicator", "replicator.runtime", "replicator.process_memory"}
    wrong = {
        name: sorted(ours)
        for name, path in modules("consumers").items()
        if (ours := {each for each in imports(path) if package_of(each) == "replicator"} - allowed)
    }
    assert not wrong


def test_modules_say_that_they_are_pure() -> None:
    assert len(PURE) >= LEAST_PURE
    assert {"replicator.pgoutput", "replicator.progress", "consumers.ordering", "consumers.upsert"} <= PURE


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_neither_wait_nor_write_nor_log(module: str) -> None:
    # The error trees know other libraries by the classes of their errors, and do nothing with them; settings, and the
    # views that ship, are handed in as values.
    allowed = PURE | {"replicator", "replicator.errors", "consumers.errors"}
    allowed |= {"replicator.config", "replicator.reference_view"}
    wrong = {
        each
        for each in imports(OURS[module])
        if (each not in allowed if package_of(each) in PACKAGES else package_of(each) not in HARMLESS)
    }
    assert not wrong


def test_the_comparison_shares_no_code_with_what_it_judges() -> None:
    """It would make the same mistake on both sides."""
    path = ROOT / "demo" / "compare.py"
    assert not {package_of(each) for each in imports(path)} & set(PACKAGES)


def test_every_test_file_has_a_name_of_its_own() -> None:
    """pytest imports them by that alone, and refuses the second one only where both are collected."""
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(set(names)) == len(names)
