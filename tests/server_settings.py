"""What the tests' PostgreSQL servers are told beside the demo's settings."""

from __future__ import annotations

from typing import Final

QUICK: Final = {"fsync": "off"}
"""Tests kill processes, never the machine: what was handed to the operating system outlives them, on disk or not.
Databases are made and dropped by the hundred, and each drop would wait for the disk."""
