"""Where something was measured: the machine, versions, and the code, as far as they make a figure another one."""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

from bench.peers.connect import DEBEZIUM_VERSION
from demo.servers import Servers
from demo.servers.kafka import VERSION as KAFKA_VERSION

ROOT: Final = Path(__file__).parents[1]
CODE: Final = ("replicator", "consumers", "sql", "demo", "bench")
TOOL_SECONDS: Final = 30.0
UNKNOWN: Final = "unknown"


def machine() -> dict[str, Any]:
    return {
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "processor": _processor(),
        "system": platform.platform(),
    }


def versions(servers: Servers) -> dict[str, str]:
    return {
        "inbox-replicator": _commit(),
        "PostgreSQL": str(servers.source.version),
        "Kafka": KAFKA_VERSION,
        "Debezium": DEBEZIUM_VERSION,
        "Java": _said(["java", "-version"], r'version "([^"]+)"'),
        "Python": platform.python_version(),
        "psycopg": version("psycopg"),
        "confluent-kafka": version("confluent-kafka"),
    }


def code() -> str:
    """A digest of everything that is measured or measures."""
    digest = hashlib.sha256(sys.version.encode())
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _commit() -> str:
    """The last one of what is measured or measures, and whether that was changed since."""
    last = _said(["git", "log", "-1", "--format=%h", "--", *CODE], r"\S+")
    is_changed = _said(["git", "status", "--porcelain", "--", *CODE], r"\S") != UNKNOWN
    return f"{last}, changed" if is_changed else last


def _processor() -> str:
    """Its name as Linux has it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found[1] if found else platform.processor()


def _said(command: list[str], pattern: str) -> str:
    """What a tool says of itself on either stream; UNKNOWN where it is not there, or says nothing like that."""
    try:
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TOOL_SECONDS, check=False)
    except OSError:
        return UNKNOWN
    found = re.search(pattern, told.stdout or told.stderr)
    return found[found.lastindex or 0] if found and told.returncode == 0 else UNKNOWN
