"""How a run begins: whatever cuts it short or comes between, the next one's events count."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator import topics
from replicator.errors import SourceUnavailable
from replicator.memory import Content, Memory
from replicator.pipeline import Run
from replicator.progress import Batch
from replicator.runtime import Stop
from tests.integration.chatwoot import Source, add_message, fill, wait_until_alike
from tests.integration.programs import RUN, settings_of, started
from tests.integration.replayed import Replayed


def run_here(environment: dict[str, str]) -> None:
    """One run in this process, until it fails."""
    settings = settings_of(environment)
    Run(settings, topics.kafka_base(settings), Stop()).serve()


def test_an_epoch_that_was_cut_short_makes_nobody_after_it_a_zombie(
    environment: dict[str, str],
    source: Source,
    replayed: Replayed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(source, conversations=6, messages=1)
    with started(RUN, environment, tmp_path / "first") as first:
        wait_until_alike(replayed, source)
        assert first.stop() == 0
    source.execute("SELECT pg_drop_replication_slot(%s)", (environment["REPLICATOR_SLOT"],))

    def cut(memory: Memory, key: str, content: Content, batch: Batch) -> None:
        if key == "epoch":
            raise SourceUnavailable("cut short")
        write(memory, key, content, batch)

    with monkeypatch.context() as patched:
        write = Memory.write
        patched.setattr(Memory, "write", cut)
        with pytest.raises(SourceUnavailable, match="cut short"):
            run_here(environment)
    with started(RUN, environment, tmp_path / "second") as second:
        second.wait_healthy()
        (begun,) = second.logged("epoch.begins")
        assert "begun and not finished" in begun["reason"]
        add_message(source, 1, "after")
        wait_until_alike(replayed, source)
        assert replayed.zombies == []
        assert second.stop() == 0
