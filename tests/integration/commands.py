"""Commands of `consumers`, run to their end as real processes, for tests of the whole path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.integration.whole import Whole


def consumers(path: Whole, *arguments: object, expect: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
    """One command; fails if its exit code is another."""
    done = subprocess.run(
        [sys.executable, "-m", "consumers", *map(str, arguments)],
        env={**os.environ, **path.worker_environment, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def answer(path: Whole, command: str, *arguments: object, expect: int = 0, **settings: str) -> dict[str, Any]:
    """What it says to machines."""
    found: dict[str, Any] = json.loads(consumers(path, command, "--json", *arguments, expect=expect, **settings).stdout)
    return found


def unlike(found: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
    """By table and kind the first keys of what differs."""
    kinds = ("missing", "extra", "different")
    return {
        table["table"]: {kind: table["examples"][kind] for kind in kinds if table[kind]}
        for table in found["tables"]
        if any(table[kind] for kind in kinds)
    }
