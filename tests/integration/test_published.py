"""What happened while a table was not published is not missing: it is read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.inspection import read_source
from replicator.preparation import to_publish
from replicator.remedies import create_publication
from tests.integration.chatwoot import Source, add_message, fill, wait_until_alike
from tests.integration.programs import RUN, prepare_source, settings_of, started
from tests.integration.replayed import Replayed

TAKEN_OUT = "ALTER PUBLICATION {0} DROP TABLE messages"
PUT_BACK = "ALTER PUBLICATION {0} ADD TABLE messages"
INSERTS_LEFT_OUT = "ALTER PUBLICATION {0} SET (publish = 'update')"
ALL_PUBLISHED = "ALTER PUBLICATION {0} SET (publish = 'insert, update, delete, truncate')"
REPLACED = """
    CREATE TABLE new_messages (LIKE messages INCLUDING ALL);
    INSERT INTO new_messages SELECT * FROM messages WHERE id % 2 = 0;
    ALTER TABLE messages RENAME TO old_messages;
    ALTER TABLE new_messages RENAME TO messages
"""


def change_unseen(source: Source) -> None:
    add_message(source, 1, "in the gap")
    source.execute("DELETE FROM messages WHERE id = 1")


@pytest.mark.parametrize(
    ("opens", "closes"),
    [
        (TAKEN_OUT, PUT_BACK),
        (INSERTS_LEFT_OUT, ALL_PUBLISHED),
        ("DROP PUBLICATION {0}", ""),
        (REPLACED, ""),
    ],
    ids=["table", "operations", "publication", "replaced"],
)
def test_a_gap_while_the_replicator_was_away(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path, opens: str, closes: str
) -> None:
    fill(source, conversations=6, messages=1)
    publication = settings_of(environment).publication
    with started(RUN, environment, tmp_path / "first") as first:
        wait_until_alike(replayed, source)
        assert first.stop() == 0
    source.execute(opens.format(publication).encode())
    change_unseen(source)
    source.execute(closes.format(publication).encode())
    prepare_source(environment)
    with started(RUN, environment, tmp_path / "second") as second:
        wait_until_alike(replayed, source)
        assert second.stop() == 0


def test_a_gap_while_it_runs(environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path) -> None:
    fill(source, conversations=6, messages=1)
    publication = settings_of(environment).publication
    with started(RUN, environment, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        replayed.wait_for_end()
        source.execute(TAKEN_OUT.format(publication).encode())
        change_unseen(source)
        source.execute(PUT_BACK.format(publication).encode())
        wait_until_alike(replayed, source)
        assert replicator.stop() == 0


def test_a_publication_that_is_made_anew_while_it_runs(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    """Before PostgreSQL 18 the slot can't pass a change that was made without it."""
    fill(source, conversations=6, messages=1)
    settings = settings_of(environment)
    anew = create_publication(settings, to_publish(read_source(settings), settings), source.info.server_version)
    with started(RUN, environment, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        replayed.wait_for_end()
        with source.transaction():  # a run that finds none stops
            source.execute(f"DROP PUBLICATION {settings.publication}".encode())
            change_unseen(source)
            source.execute(anew.encode())
        wait_until_alike(replayed, source)
        add_message(source, 1, "after")
        wait_until_alike(replayed, source)
        assert replicator.stop() == 0


def test_rows_of_a_table_that_was_renamed_for_a_while(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    """The stream has the name of that time."""
    fill(source, conversations=6, messages=1)
    with started(RUN, environment, tmp_path / "first") as first:
        wait_until_alike(replayed, source)
        assert first.stop() == 0
    source.execute("ALTER TABLE messages RENAME TO letters")
    source.execute("UPDATE letters SET content = 'edited' WHERE id = 1")
    source.execute("ALTER TABLE letters RENAME TO messages")
    with started(RUN, environment, tmp_path / "second") as second:
        wait_until_alike(replayed, source)
        assert not second.logged("epoch.begins")
        assert second.stop() == 0
