"""glibc keeps one heap for all threads once a worker has settled."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

_ALLOCATES_IN_THREADS = """
import ctypes, sys, threading
from replicator.process_memory import settle
if sys.argv[2] == "one":
    settle()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
both_there = threading.Barrier(2)
def allocate():
    kept = bytearray(50_000)
    both_there.wait(60)
threads = [threading.Thread(target=allocate) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(60)
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
assert libc.malloc_info(0, file) == 0
libc.fclose(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library is not glibc")
def test_threads_settle(tmp_path: Path) -> None:
    def heaps(how: str) -> int:
        info = tmp_path / how
        subprocess.run([sys.executable, "-c", _ALLOCATES_IN_THREADS, info, how], check=True, timeout=60)
        return info.read_text().count("<heap nr=")

    assert heaps("each its own") > 1
    assert heaps("one") == 1
