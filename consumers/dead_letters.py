"""Dead letters in the target: events that can't be applied, and what waits behind them, until they are healed.

Written in a tenant's own transaction, under its lock, beside its rows and watermark: what is no row of the target is a
dead letter, never both, never neither. An event that says a whole row stands for the dead letters of that row and inbox
before it, so there are only as many as rows and partial changes since. What an event holds leaves the table only for
being applied, or shown to an operator who asks for it. Never opens or ends a transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from psycopg import Connection

from consumers.batch import UNKNOWN, Message, event_of, head_of
from consumers.errors import BadEvent, LettersMoved, TooManyLetters
from consumers.ordering import Event, identifier
from consumers.reasons import Reason
from consumers.script import Answer, Script
from consumers.waiting import Closing, Held, Kept, Row, Stand, is_whole
from replicator import Position

MOST_OF_A_TENANT: Final = 10_000
"""Beyond that the tenant is parked: somebody must look, and each of its transactions asks for their number."""
MOST_OF_A_KIND: Final = 100
"""New within WINDOW_S, with the same error at the same place of a table: then it is not the rows that are wrong."""
WINDOW_S: Final = 60
BEHIND: Final = "an earlier event of this row is a dead letter"
_HEAL: Final = "It is applied by itself once that one is; a later full image of the row heals both."


@dataclass(frozen=True, slots=True)
class Letter:
    """An event that becomes a dead letter."""

    event: Event
    reason: Reason
    waits: bool = False
    is_new: bool = False
    """Its row has no other; only those are counted against MOST_OF_A_KIND."""


@dataclass(frozen=True, slots=True)
class Letters:
    """What a tenant's transaction does to its dead letters."""

    stand: Stand
    """They must be as they were when this was decided."""
    buried: Sequence[Letter] = ()
    closings: Sequence[Closing] = ()
    healed: Sequence[int] = ()
    """Ids of those that the transaction applies."""

    @property
    def changes(self) -> bool:
        """Whether it does anything to them."""
        return bool(self.buried or self.closings or self.healed)


def behind(event: Event) -> Letter:
    """An event that waits."""
    return Letter(event, Reason(kind="waits", says=BEHIND, advice=_HEAL), waits=True)


def read(connection: Connection[Any], tenant: int) -> Held:
    rows: dict[Row, list[Kept]] = defaultdict(list)
    latest = count = 0
    for number, table, key, inbox, *position in connection.execute(
        "SELECT id, relation, key, inbox_id, source_epoch, source_point, source_ordinal FROM replication_dead_letters"
        " WHERE tenant_id = %s",
        [tenant],
    ):
        rows[table, key.encode()].append(Kept(Position(*position), inbox))
        count, latest = count + 1, max(latest, number)
    return Held(Stand(count, latest), rows)


def expect(script: Script, tenant: int, known: Stand) -> None:
    """In the tenant's transaction, under its lock. Sending it raises LettersMoved."""

    def check(answer: Answer) -> None:
        if [Stand(int(letters or 0), int(latest or 0)) for letters, latest in answer.rows] != [known]:
            raise LettersMoved(f"the dead letters of tenant {tenant} have changed")

    script.ask(_STAND, {"tenant": tenant}, check)


def settle(connection: Connection[Any], tenant: int, topic_id: str, letters: Letters) -> None:
    """In the tenant's transaction, under its lock, after `expect`. Raises TooManyLetters."""
    for closing in letters.closings:
        _close(connection, tenant, closing)
    if letters.healed:
        connection.execute(
            "DELETE FROM replication_dead_letters WHERE tenant_id = %s AND id = ANY (%s)",
            [tenant, list(letters.healed)],
        )
    for letter in letters.buried:
        if letter.is_new:
            _refuse_more_of_a_kind(connection, tenant, letter)
        _bury(connection, tenant, topic_id, letter)
    if letters.buried and stand(connection, tenant).letters > MOST_OF_A_TENANT:
        raise TooManyLetters(
            "DeadLetters",
            f"the tenant has {MOST_OF_A_TENANT} dead letters",
            "`consumers dead-letters list` says why; the tenant goes on when some are healed, or discarded.",
        )


def spared(connection: Connection[Any], tenant: int, table: str, older: Position) -> list[int]:
    """Rows that a sweep of what is not beyond `older` leaves alone: its backfill has seen them, and they could not be
    applied. A row of which only older events are dead letters was not seen any more."""
    return [
        row
        for (row,) in connection.execute(
            "SELECT DISTINCT row_id FROM replication_dead_letters"
            " WHERE tenant_id = %(tenant)s AND relation = %(table)s AND row_id IS NOT NULL"
            " AND (source_epoch, source_point, source_ordinal)"
            " > (%(epoch)s::bigint, %(point)s::bigint, %(ordinal)s::bigint)",
            {"tenant": tenant, "table": table, **_position(older)},
        )
    ]


def sweep(
    connection: Connection[Any],
    tenant: int,
    table: str,
    older: Position,
    *,
    inboxes: Sequence[int],
    spared: Sequence[int],
    keys: tuple[int, int] | None,
) -> None:
    """Closes those of rows that are gone, within a sweep's scope."""
    first, last = keys if keys is not None else (None, None)
    connection.execute(
        "DELETE FROM replication_dead_letters WHERE tenant_id = %(tenant)s AND relation = %(table)s"
        " AND inbox_id = ANY (%(inboxes)s) AND row_id <> ALL (%(spared)s::bigint[])"
        " AND (%(first)s::bigint IS NULL OR row_id BETWEEN %(first)s AND %(last)s)"
        " AND (source_epoch, source_point, source_ordinal)"
        " <= (%(epoch)s::bigint, %(point)s::bigint, %(ordinal)s::bigint)",
        {
            "tenant": tenant,
            "table": table,
            "inboxes": list(inboxes),
            "spared": list(spared),
            "first": first,
            "last": last,
            **_position(older),
        },
    )


def holders(connection: Connection[Any], table: str, ids: Sequence[int] | None) -> Iterable[tuple[int, int | None]]:
    """Tenants with a dead letter of such a row, as (tenant, id); ids None: of any row, as (tenant, None)."""
    if ids is None:
        return connection.execute(
            "SELECT DISTINCT tenant_id, NULL::bigint FROM replication_dead_letters WHERE relation = %s", [table]
        )
    return connection.execute(
        "SELECT DISTINCT tenant_id, row_id FROM replication_dead_letters WHERE relation = %s AND row_id = ANY (%s)",
        [table, list(ids)],
    )


def stand(connection: Connection[Any], tenant: int) -> Stand:
    """To be read before anything else of them is."""
    found = connection.execute(_STAND, {"tenant": tenant}).fetchone()
    return Stand(*found) if found else Stand(0, 0)


_STAND: Final = "SELECT count(*), COALESCE(max(id), 0) FROM replication_dead_letters WHERE tenant_id = %(tenant)s"


def _close(connection: Connection[Any], tenant: int, closing: Closing) -> None:
    """What waited behind those, and is beyond the position, waits for nobody any more."""
    given = {
        "tenant": tenant,
        "table": closing.table,
        "key": None if closing.key is None else closing.key.decode(),
        "inbox": closing.inbox,
        **_position(closing.position),
    }
    rows = "tenant_id = %(tenant)s AND relation = %(table)s AND (%(key)s::text IS NULL OR key = %(key)s)"
    connection.execute(
        f"DELETE FROM replication_dead_letters WHERE {rows}"
        " AND (%(inbox)s::bigint IS NULL OR inbox_id = %(inbox)s)"
        " AND (source_epoch, source_point, source_ordinal)"
        " <= (%(epoch)s::bigint, %(point)s::bigint, %(ordinal)s::bigint)".encode(),
        given,
    )
    connection.execute(
        f"UPDATE replication_dead_letters SET due_at = now() WHERE {rows} AND waits AND due_at IS NULL".encode(), given
    )


def _refuse_more_of_a_kind(connection: Connection[Any], tenant: int, letter: Letter) -> None:
    """A tenant that was parked for this kind is not given the next hundred when it is tried again."""
    reason = letter.reason
    found = connection.execute(
        "SELECT count(*) FROM replication_dead_letters WHERE tenant_id = %(tenant)s AND relation = %(table)s"
        " AND NOT waits AND error_class = %(kind)s AND COALESCE(concerns, '') = %(concerns)s"
        " AND since > LEAST(now(), (SELECT min(p.since) FROM replication_parked AS p"
        " WHERE p.tenant_id = %(tenant)s AND p.error_class = %(kind)s)) - %(window)s * interval '1 s'",
        {
            "tenant": tenant,
            "table": _storable(letter.event.table),
            "kind": reason.kind,
            "concerns": reason.concerns,
            "window": WINDOW_S,
        },
    ).fetchone()
    if found and found[0] >= MOST_OF_A_KIND:
        raise TooManyLetters(
            reason.kind,
            f"{MOST_OF_A_KIND} rows were set aside within {WINDOW_S} s for the same reason, which is then no row's"
            f" fault: {reason.says}",
            reason.advice,
        )


def _bury(connection: Connection[Any], tenant: int, topic_id: str, letter: Letter) -> None:
    event, reason = letter.event, letter.reason
    connection.execute(
        "WITH outdated AS (DELETE FROM replication_dead_letters WHERE %(is_whole)s AND tenant_id = %(tenant)s"
        " AND relation = %(table)s AND key = %(key)s AND inbox_id IS NOT DISTINCT FROM %(inbox)s::bigint"
        " AND (source_epoch, source_point, source_ordinal)"
        " < (%(epoch)s::bigint, %(point)s::bigint, %(ordinal)s::bigint) RETURNING since, tries)"
        " INSERT INTO replication_dead_letters AS d (tenant_id, relation, key, row_id, inbox_id, op, topic_id,"
        " partition, log_offset, source_epoch, source_point, source_ordinal, is_whole, waits, error_class, concerns,"
        " error, advice, since, tried_at, tries, headers, body) SELECT %(tenant)s, %(table)s, %(key)s, %(row)s,"
        " %(inbox)s, %(op)s, %(topic)s, %(partition)s, %(offset)s, %(epoch)s, %(point)s, %(ordinal)s, %(is_whole)s,"
        " %(waits)s, %(kind)s, %(concerns)s, %(says)s, %(advice)s, COALESCE(min(o.since), now()),"
        " CASE WHEN NOT %(waits)s THEN now() END, COALESCE(max(o.tries), 0) + CASE WHEN %(waits)s THEN 0 ELSE 1 END,"
        " %(headers)s::json, %(body)s FROM outdated AS o"
        " ON CONFLICT (tenant_id, topic_id, partition, log_offset) DO UPDATE SET waits = EXCLUDED.waits,"
        " error_class = EXCLUDED.error_class, concerns = EXCLUDED.concerns, error = EXCLUDED.error,"
        " advice = EXCLUDED.advice, tried_at = EXCLUDED.tried_at, tries = d.tries + EXCLUDED.tries, due_at = NULL",
        {
            "tenant": tenant,
            "table": _storable(event.table),
            "key": _storable(event.key.decode(errors="replace")),
            "row": row_of(event.key),
            "inbox": event.inbox,
            "op": _storable(event.op),
            "topic": topic_id,
            "partition": event.partition,
            "offset": event.offset,
            **_position(event.position),
            "is_whole": is_whole(event),
            "waits": letter.waits,
            "kind": reason.kind,
            "concerns": reason.concerns,
            "says": _storable(reason.says),
            "advice": _storable(reason.advice),
            "headers": pack_headers(event.headers),
            "body": event.body,
        },
    )


def failed(connection: Connection[Any], number: int, reason: Reason) -> None:
    """It was tried again, and can't be applied still."""
    connection.execute(
        "UPDATE replication_dead_letters SET waits = false, error_class = %s, concerns = %s, error = %s, advice = %s,"
        " tried_at = now(), tries = tries + 1, due_at = NULL WHERE id = %s",
        [reason.kind, reason.concerns, _storable(reason.says), _storable(reason.advice), number],
    )


def ask_again(connection: Connection[Any], tables: Iterable[str]) -> None:
    """All of these tables are to be tried again: they were altered."""
    connection.execute(
        "UPDATE replication_dead_letters SET due_at = now() WHERE relation = ANY (%s) AND due_at IS NULL",
        [list(tables)],
    )


def due(connection: Connection[Any], pool: str, partitions: Iterable[int]) -> list[tuple[int, str, str]]:
    """Rows of a pool's tenants, as (tenant, table, key), with a dead letter of these partitions that is asked for; the
    oldest first."""
    return connection.execute(
        "SELECT tenant_id, relation, key FROM replication_dead_letters WHERE due_at IS NOT NULL"
        " AND partition = ANY (%s) AND replication_pool_of(tenant_id) = %s"
        " GROUP BY tenant_id, relation, key ORDER BY min(id)",
        [list(partitions), pool],
    ).fetchall()


def of_row(connection: Connection[Any], tenant: int, table: str, key: str) -> list[tuple[int, Event]]:
    """Every dead letter of a row with its id, in the order of its history."""
    found = connection.execute(
        "SELECT id, partition, log_offset, inbox_id, headers, body FROM replication_dead_letters"
        " WHERE tenant_id = %s AND relation = %s AND key = %s"
        " ORDER BY source_epoch, source_point, source_ordinal, id",
        [tenant, table, key],
    )
    return [(number, _event(*fields)) for number, *fields in found]


def asked_no_more(connection: Connection[Any], tenant: int, table: str, key: str) -> None:
    """Nobody asks for the row any more."""
    connection.execute(
        "UPDATE replication_dead_letters SET due_at = NULL WHERE tenant_id = %s AND relation = %s AND key = %s",
        [tenant, table, key],
    )


def _event(partition: int, offset: int, inbox: int | None, headers: Any, body: bytes) -> Event:
    raw = unpack_headers(headers)
    return event_of(Message(partition, offset, None, raw, body), head_of(raw) or UNKNOWN, inbox)


def pack_headers(headers: Iterable[tuple[str, bytes | None]]) -> str:
    """Kafka's headers as JSON; a header may have no value, and bytes that are no text."""
    named = [[name, value if value is None else value.decode("latin-1")] for name, value in headers]
    return orjson.dumps(named).decode()


def unpack_headers(packed: Sequence[Sequence[Any]]) -> list[tuple[str, Any]]:
    return [(name, value if value is None else value.encode("latin-1")) for name, value in packed]


def _position(position: Position) -> Mapping[str, int]:
    return {"epoch": position.epoch, "point": position.point, "ordinal": position.ordinal}


def row_of(key: bytes) -> int | None:
    """The id in a key; None: it is not one integer."""
    try:
        return identifier(key)
    except BadEvent:
        return None


def _storable(text: str) -> str:
    """PostgreSQL's text has no NUL."""
    return text.replace("\0", "\ufffd")
