"""The demo in small: it shows what it promises, says when it does not, and leaves nothing behind.

It brings its own servers, so its tests stay on one of the test runner's processes, one after another.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from demo.servers import wait_until

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SMALL = ["--conversations", "120", "--seconds", "1", "--rate", "60", "--inboxes", "2"]
SMALLEST = ["--tenants", "1", "--inboxes", "1"]
"""Each inbox is mapped by a command of its own, which costs as much as all else that is done with it."""
BRIEF = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1"}
"""So little traffic does not give back what compiling a broker well takes."""
RUN_SECONDS = 240.0
STEP_SECONDS = 120.0
END_SECONDS = 30.0


class Demo:
    """`python -m demo` as a user would start it, without a terminal."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "demo", *SMALL, *arguments],
                cwd=ROOT,
                env={**{name: value for name, value in os.environ.items() if name != "KEEP"}, **BRIEF},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self._log.read_text()

    @property
    def folder(self) -> Path:
        (named,) = set(re.findall(r"/\S*/inbox-replicator-\w+", self.text))
        return Path(named)

    def wait_for(self, words: str) -> None:
        def said() -> bool:
            assert words in self.text or self.process.poll() is None, self.text
            return words in self.text

        wait_until(said, words, STEP_SECONDS)

    def child(self, *words: str) -> psutil.Process:
        (found,) = [
            child
            for child in psutil.Process(self.process.pid).children()
            if child.cmdline()[-len(words) :] == list(words)
        ]
        return found

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Start a demo; one that still runs at the end is killed, and its guardian cleans up."""
    started: list[Demo] = []

    def begin(*arguments: str) -> Demo:
        started.append(Demo(tmp_path / f"demo-{len(started)}.log", *arguments))
        return started[-1]

    yield begin
    for demo in started:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.wait(END_SECONDS)


def gone(children: list[psutil.Process]) -> bool:
    return not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_the_whole_path_ends_with_equal_rows_and_can_be_looked_at(start: Callable[..., Demo]) -> None:
    demo = start("--keep")
    demo.wait_for("live traffic begins")
    children = demo.children()
    demo.wait_for("Ctrl-C ends it all.")
    told = [
        *("the initial load is complete", "worker 1 killed (SIGKILL)", "worker 2 has taken its partitions over"),
        *("worker 1 is back", "everything is applied", "every row of every tenant is equal", "p50", "MB"),
    ]
    assert [words for words in told if words not in demo.text] == []
    assert re.search(r"in [\d,]+ rows/s \| out [\d,]+ rows/s \| lag ms 10: ", demo.text)
    look_at(demo)
    folder = demo.folder
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(END_SECONDS) == 0, demo.text
    assert not folder.exists()
    assert gone(children)


def look_at(demo: Demo) -> None:
    """The commands that are printed work, and the readers that are named see their tenant's rows alone."""
    settings = re.search(r"set -a; \. \S+; set \+a", demo.text)
    assert settings is not None
    for command in ("replicator status --json", "consumers status --json"):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{settings[0]}; exec {sys.executable} -m {command}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    readers = re.findall(r"PGOPTIONS='-c app\.current_tenant_id=(\d+)' \S+ (\S+)", demo.text)
    assert [tenant for tenant, _ in readers] == ["10", "20", "30"]
    for tenant, dsn in readers:
        with psycopg.connect(dsn, options=f"-c app.current_tenant_id={tenant}") as reader:
            seen = reader.execute("SELECT tenant_id, count(*) > 0 FROM messages GROUP BY tenant_id").fetchall()
        assert seen == [(int(tenant), True)]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("poll", "every row of every tenant of conversations_analytics is equal"),
        ("poll-tables", "every row of every tenant is equal"),
    ],
)
def test_a_source_that_may_only_be_asked_ends_with_equal_rows_too(
    start: Callable[..., Demo], mode: str, ending: str
) -> None:
    demo = start("--mode", mode)
    assert demo.process.wait(RUN_SECONDS) == 0, demo.text
    told = (
        "mode: polling, because REPLICATOR_MODE says so",
        "polling, verified through",
        "polling has seen it",
        ending,
    )
    assert [words for words in told if words not in demo.text] == []


@pytest.mark.soak
def test_the_tour_of_recovery_proves_each_of_its_turns(start: Callable[..., Demo]) -> None:
    demo = start("--scenario", "recovery")
    assert demo.process.wait(RUN_SECONDS) == 0, demo.text
    told = [
        *("tenant 40 is added by one INSERT", "tenant 40 is equal to the source", "in one transaction"),
        *("tenant 10 is equal to the source", "names exactly these", "they are back, and nothing differs"),
        *("the slot is lost", "all is read again", "the workers name the gap", "every tenant is backfilled"),
        *("no tenant saw a row of another's inbox", "every row of every tenant is equal in source and target"),
    ]
    assert [words for words in told if words not in demo.text] == []


@pytest.mark.soak
def test_a_slot_that_is_lost_is_polled_over_and_the_stream_comes_back(start: Callable[..., Demo]) -> None:
    demo = start("--scenario", "slot-lost")
    assert demo.process.wait(RUN_SECONDS) == 0, demo.text
    told = [
        *("the slot is lost", "mode: polling, because the replication slot was lost", "polling, verified through"),
        *("changes arrive again", "the source is streamed again", "all is read again"),
        "every row of every tenant is equal in source and target",
    ]
    assert [words for words in told if words not in demo.text] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(start: Callable[..., Demo], number: signal.Signals) -> None:
    demo = start(*SMALLEST)
    demo.wait_for("live traffic begins" if number == signal.SIGINT else "the source has")
    children, folder = demo.children(), demo.folder
    demo.process.send_signal(number)
    assert demo.process.wait(END_SECONDS) == 128 + number, demo.text
    assert "Traceback" not in demo.text
    assert not folder.exists()
    assert gone(children)


def test_a_program_that_dies_by_itself_is_failure(start: Callable[..., Demo]) -> None:
    demo = start(*SMALLEST)
    demo.wait_for("live traffic begins")
    demo.child("replicator", "run").kill()
    assert demo.process.wait(RUN_SECONDS) == 1, demo.text
    assert "replicator ended unexpectedly with exit code -9" in demo.text
