"""Which tables the publication is to hold, with which replica identity and which columns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.config import load
from replicator.facts import ColumnFacts, MadeOf, SourceFacts
from replicator.preparation import missing
from replicator.publication import covering, refuses_writes, wanted_tables
from replicator.relations import ANALYTICS, SHIPPED, CauseTable, Identity
from tests.unit.test_findings import READY, _index, _published, _table

SETTINGS = load(source_dsn="postgresql://nowhere", kafka_bootstrap_servers="nowhere:9092", _env_file=None)


def _made_of(table: str = "taggings", **more: object) -> MadeOf:
    given = {
        "schema": "public",
        "table": table,
        "key": ("id",),
        "columns": frozenset({"id", "tag_id", "taggable_id"}),
        "starts": frozenset({"taggable_id"}),
        "not_null": frozenset({"id", "taggable_id"}),
    }
    return MadeOf(**given | more)  # type: ignore[arg-type]


def _others(*uses: MadeOf) -> list[CauseTable]:
    """What is wanted beside what is shipped."""
    found = wanted_tables({ANALYTICS: uses}, SETTINGS)
    return [table for table in found if isinstance(table, CauseTable) and not table.is_shipped]


def _facts(table: CauseTable, **changed: object) -> SourceFacts:
    """A source with such a table, as setup leaves it but for what is changed."""
    columns = dict.fromkeys(table.columns, ColumnFacts(type_name="integer", not_null=True))
    there = replace(_table(table), columns=columns, **changed)  # type: ignore[arg-type]
    return replace(READY, made_of={ANALYTICS: [_made_of()]}, tables={**READY.tables, table.name: there})


def test_what_our_own_view_is_made_of_stands_in_for_a_view_that_is_not_there() -> None:
    names = [table.name for table in wanted_tables({}, SETTINGS)]
    assert names == [*(table.name for table in SHIPPED), "accounts", "teams", "users"]
    without = SETTINGS.model_copy(update={"view": ""})
    assert wanted_tables({}, without) == SHIPPED


def test_tables_that_are_shipped_and_those_of_other_schemas_are_not_wanted_again() -> None:
    assert _others(_made_of("messages"), _made_of("contacts"), _made_of(schema="audit")) == []


@pytest.mark.parametrize(
    ("use", "identity", "columns"),
    [
        (_made_of(), Identity(columns=("taggable_id", "id")), ("id", "tag_id", "taggable_id")),
        (_made_of(starts=frozenset({"id"})), Identity(kind="default"), ("id", "tag_id", "taggable_id")),
        (_made_of(not_null=frozenset({"id"})), Identity(kind="full"), ()),
        (_made_of(key=()), Identity(kind="full"), ()),
    ],
    ids=["index", "the key leads on", "a start may be NULL", "no primary key"],
)
def test_the_identity_carries_what_paths_start_from(use: MadeOf, identity: Identity, columns: tuple[str, ...]) -> None:
    (table,) = _others(use)
    assert (table.identity, table.columns) == (identity, columns)


def test_relations_that_share_a_table_share_what_is_published_of_it() -> None:
    (table,) = _others(_made_of(columns=frozenset({"id", "a"})), _made_of(columns=frozenset({"id", "b"})))
    assert table.columns == ("id", "a", "b")


def test_a_list_of_columns_covers_the_identity_that_there_is() -> None:
    (table,) = _others(_made_of())
    facts = _table(table)
    wider = replace(facts, indexes=(_index("wide", "id", "taggable_id", "context", identity=True),))
    assert "context" in covering(table, wider).columns  # type: ignore[union-attr]
    assert covering(table, replace(facts, identity="f")).columns == ()  # type: ignore[union-attr]
    assert refuses_writes(wider, _published("taggings", columns=frozenset(table.columns)))
    assert not refuses_writes(wider, _published("taggings"))


def test_columns_that_a_new_identity_needs_are_published_before_it_is_made() -> None:
    """In the other order the source's own UPDATE and DELETE would fail in between."""
    (table,) = _others(_made_of())
    primary = _index("primary", "id", primary=True)
    facts = _facts(table, identity="d", indexes=(primary,))
    assert facts.publication is not None
    narrow = _published("taggings", columns=frozenset({"id", "tag_id"}))
    published = replace(facts, publication=replace(facts.publication, tables=(*facts.publication.tables, narrow)))

    steps = [step.sql for step in missing(published, SETTINGS)]

    assert "ADD TABLE public.taggings (id, tag_id, taggable_id)" in steps[0]
    assert [step.split(" ON ")[0].split(" REPLICA")[0] for step in steps[1:]] == [
        "CREATE UNIQUE INDEX CONCURRENTLY taggings_replica_identity",
        "ALTER TABLE public.taggings",
    ]


def test_a_table_whose_identity_becomes_full_is_published_with_all_columns_before() -> None:
    (table,) = _others(_made_of())
    facts = _facts(table, identity="d", indexes=(_index("primary", "id", primary=True),))
    nullable = {name: replace(column, not_null=False) for name, column in facts.tables["taggings"].columns.items()}
    tables = {**facts.tables, "taggings": replace(facts.tables["taggings"], columns=nullable)}
    assert facts.publication is not None
    listed = (*facts.publication.tables, _published("taggings", columns=frozenset(table.columns)))
    published = replace(facts, tables=tables, publication=replace(facts.publication, tables=listed))

    steps = [step.sql for step in missing(published, SETTINGS)]

    assert "ADD TABLE public.taggings; COMMIT" in steps[0]
    assert steps[1:] == ["ALTER TABLE public.taggings REPLICA IDENTITY FULL"]


def test_a_table_whose_identity_is_broken_is_mended_before_it_is_published() -> None:
    (table,) = _others(_made_of())
    accepting = SETTINGS.model_copy(update={"accept_default_identity": True})
    steps = [step.sql for step in missing(_facts(table, identity="n"), accepting)]
    assert "REPLICA IDENTITY USING INDEX" in steps[-2]
    assert steps[-1].startswith("ALTER PUBLICATION inbox_replicator ADD TABLE public.taggings")
