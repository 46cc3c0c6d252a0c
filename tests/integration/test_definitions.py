"""What the replicator takes for a definition that is still the same, on a real catalogue."""

from __future__ import annotations

from replicator.config import load
from replicator.definitions import captured_by, read_definitions
from replicator.derived import Derived
from replicator.source import Source as Session
from tests.integration.chatwoot import Source

RATED = {
    "select": "SELECT m.id, m.inbox_id, a.rating FROM messages m"
    " LEFT JOIN csat_survey_responses a ON a.message_id = m.id",
    "key": "id",
    "inbox": "inbox_id",
}


def test_lineage_is_made_anew_only_when_something_that_it_relies_on_is_another(source_dsn: str, source: Source) -> None:
    settings = load(source_dsn=source_dsn, kafka_bootstrap_servers="nobody:1", derived={"rated": RATED})
    captured = captured_by(settings)
    with Session(settings) as session:
        first = read_definitions(session, captured)
        assert {"contacts", "csat_survey_responses", "rated"} <= set(first.available)
        again = read_definitions(session, captured, first)
        assert again == first
        assert all(again.relations[name] is first.relations[name] for name in first.available)
        source.execute("DROP INDEX index_csat_survey_responses_on_message_id")  # a message may have two answers now
        without = read_definitions(session, captured, first)
        assert without != first
        before, after = first.relations["rated"], without.relations["rated"]
        assert isinstance(before, Derived)
        assert isinstance(after, Derived)
        assert after is not before
        assert after.digest == before.digest, "its rows are still the same"
        assert without.relations["contacts"] is first.relations["contacts"]


def test_what_a_function_does_is_part_of_what_a_relation_is_made_from(source_dsn: str, source: Source) -> None:
    def made(name: str, body: str) -> None:
        source.execute(
            f"CREATE OR REPLACE FUNCTION {name}(text) RETURNS text IMMUTABLE LANGUAGE sql AS '{body}'".encode()
        )

    def digests(session: Session) -> tuple[str, ...]:
        found = read_definitions(session, captured).relations
        return tuple(each.digest for name in ("named", "rated") if isinstance(each := found[name], Derived))

    made("plain", "SELECT trim($1)")
    made("shown", "SELECT lower(plain($1))")
    made("other", "SELECT upper($1)")
    source.execute("CREATE VIEW told AS SELECT m.id, m.inbox_id, shown(m.content) AS content FROM messages m")
    named = {"select": "SELECT id, inbox_id, content FROM told", "key": "id", "inbox": "inbox_id"}
    settings = load(source_dsn=source_dsn, kafka_bootstrap_servers="nobody:1", derived={"rated": RATED, "named": named})
    captured = captured_by(settings)
    with Session(settings) as session:
        first, rated = digests(session)
        made("shown", "SELECT lower(plain($1))")
        made("other", "SELECT lower($1)")
        assert digests(session) == (first, rated), "nothing that it calls is another"
        made("shown", "SELECT upper(plain($1))")
        by_function, unchanged = digests(session)
        assert by_function != first
        made("plain", "SELECT trim(both from $1)")
        by_what_it_calls, still = digests(session)
        assert by_what_it_calls not in (first, by_function)
        assert unchanged == still == rated


def test_a_relation_that_reads_tables_with_partitions_or_heirs_is_refused_by_name(
    source_dsn: str, source: Source
) -> None:
    source.execute(
        "CREATE TABLE events (id bigint PRIMARY KEY, message_id bigint) PARTITION BY RANGE (id);"
        " CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (1000);"
        " CREATE TABLE notes (id bigint PRIMARY KEY, message_id bigint);"
        " CREATE TABLE old_notes (PRIMARY KEY (id)) INHERITS (notes);"
        " CREATE TABLE plain (id bigint PRIMARY KEY, message_id bigint);"
        " CREATE VIEW eventful AS SELECT message_id FROM events"
    )

    def reading(table: str) -> dict[str, str]:
        select = (
            f"SELECT m.id, m.inbox_id FROM messages m WHERE EXISTS (SELECT FROM {table} t WHERE t.message_id = m.id)"
        )
        return {"select": select, "key": "id", "inbox": "inbox_id"}

    read = {"eventful": "events", "events_1": "events_1", "notes": "notes", "old_notes": "old_notes"}
    own = {f"by_{name}": reading(name) for name in [*read, "plain"]}
    settings = load(source_dsn=source_dsn, kafka_bootstrap_servers="nobody:1", derived=own)
    with Session(settings) as session:
        found = read_definitions(session, captured_by(settings)).relations
    for name, table in read.items():
        said = found[f"by_{name}"]
        assert isinstance(said, str), name
        assert f"it reads public.{table}, whose rows are shared" in said
    assert isinstance(found["by_plain"], Derived)
