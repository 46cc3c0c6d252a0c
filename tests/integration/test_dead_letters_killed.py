"""Dead letters through the whole path: two workers, one of them killed, rows that move; nothing is lost or doubled."""

from __future__ import annotations

from demo.servers import wait_until
from tests.integration.chatwoot import Source, add_message, fill, make_large
from tests.integration.whole import Whole

POISON = 42


def test_whatever_happens_to_the_workers_everything_is_there_once_the_table_is_mended(
    path: Whole, source: Source
) -> None:
    fill(source, conversations=24, messages=2)
    path.map({1: (1, 2, 3), 2: (4, 5, 6)})
    path.target.execute(f"ALTER TABLE messages ADD CONSTRAINT own CHECK (status <> {POISON})")
    replicator, first, second = path.replicator(), path.worker(), path.worker()
    path.wait_equal()
    poisoned = []
    for number in range(40):
        message = add_message(source, 1 + number % 24, f"message {number}")
        if number % 3 == 0:
            make_large(source, message)  # what changes later leaves its text out
            source.execute("UPDATE messages SET status = %s WHERE id = %s", (POISON, message))
            source.execute("UPDATE messages SET source_id = 'later' WHERE id = %s", (message,))
            poisoned.append(message)
        if number == 20:
            first.kill()
    source.execute("UPDATE messages SET inbox_id = 7 - inbox_id WHERE id = %s", (poisoned[0],))
    source.execute("DELETE FROM messages WHERE id = %s", (poisoned[1],))
    source.execute("UPDATE messages SET status = 1 WHERE id = %s", (poisoned[2],))
    dead = "SELECT DISTINCT row_id FROM replication_dead_letters"
    left = {(message,) for message in poisoned if message not in poisoned[1:3]}
    wait_until(lambda: set(path.target.rows(dead)) == left, "those that can't be applied, and no other", 60)
    assert path.target.rows("SELECT FROM replication_parked") == []
    path.target.execute("ALTER TABLE messages DROP CONSTRAINT own")
    wait_until(lambda: not path.target.rows(dead), "all are healed", 60)
    path.wait_equal()
    assert [second.stop(), replicator.stop()] == [0, 0]
