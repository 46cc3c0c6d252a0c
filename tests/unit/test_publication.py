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
        (_made_of(not_null=frozenset({"id"})), Identity(kind="full"), ("id", "tag_id", "taggable_id")),
        (_made_of(key=()), Identity(kind="full"), ("id", "tag_id", "taggable_id")),
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


def _planned(facts: SourceFacts) -> list[tuple[str, bool]]:
    """Each statement, and whether it is left to a person."""
    return [(step.sql, step.by_hand) for step in missing(facts, SETTINGS)]


def _listed(facts: SourceFacts, *columns: str) -> SourceFacts:
    """Published with these columns."""
    assert facts.publication is not None
    tables = (*facts.publication.tables, _published("taggings", columns=frozenset(columns)))
    return replace(facts, publication=replace(facts.publication, tables=tables))


PRIMARY = (_index("primary", "id", primary=True),)


def test_columns_that_lack_are_published_and_an_identity_is_left_to_a_person() -> None:
    """In the other order the source's own UPDATE and DELETE would fail in between."""
    (table,) = _others(_made_of())
    (widened, *identity) = _planned(_listed(_facts(table, identity="d", indexes=PRIMARY), "id", "tag_id"))
    assert "ADD TABLE public.taggings (id, tag_id, taggable_id)" in widened[0]
    assert not widened[1]
    assert [(sql.split(" taggings")[0].split(" REPLICA")[0], by_hand) for sql, by_hand in identity] == [
        ("CREATE UNIQUE INDEX CONCURRENTLY", True),
        ("ALTER TABLE public.taggings", True),
    ]


def test_by_hand_too_a_list_of_columns_goes_before_a_full_identity_comes() -> None:
    """Also where the list comes with the same plan."""
    use = _made_of(not_null=frozenset({"id"}))
    (table,) = _others(use)
    unpublished = replace(_facts(table, identity="d", indexes=PRIMARY), made_of={ANALYTICS: (use,)})
    for facts in (_listed(unpublished, *table.columns), unpublished):
        *_, whole, identity = _planned(facts)
        assert whole[0].endswith("ADD TABLE public.taggings; COMMIT")
        assert identity == ("ALTER TABLE public.taggings REPLICA IDENTITY FULL", True)
        assert whole[1]


def test_a_table_whose_own_writes_would_fail_is_not_published() -> None:
    (table,) = _others(_made_of())
    for broken in ({"identity": "n"}, {"identity": "d", "indexes": ()}):
        planned = _planned(_facts(table, **broken))
        assert not any("ADD TABLE" in sql for sql, _ in planned)
        assert all(by_hand for _, by_hand in planned)


def test_a_shipped_tables_identity_is_left_to_a_person_where_another_publication_limits_it() -> None:
    messages = replace(READY.tables["messages"], identity="d", indexes=PRIMARY, limited_by=("warehouse",))
    planned = _planned(replace(READY, tables={**READY.tables, "messages": messages}))
    assert planned
    assert all(by_hand for _, by_hand in planned)


def test_a_column_that_the_server_computes_is_in_no_list() -> None:
    (table,) = _others(_made_of())
    facts = _table(table)
    computed = {**facts.columns, "tag_id": ColumnFacts(type_name="integer", not_null=False, generated=True)}
    assert covering(table, replace(facts, columns=computed)).columns == ("id", "taggable_id")  # type: ignore[union-attr]
