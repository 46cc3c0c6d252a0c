"""The text of the statements, where a wrong one could pass on a small server: names, order, forms."""

from __future__ import annotations

import pglast
import pytest

from consumers import upsert
from consumers.identifiers import literal, quoted
from consumers.relation import OWN_COLUMNS, Form, Relation, form, parents_first
from replicator import TableSchema

AWKWARD = 'odd "name'


def relation(
    name: str, *parents: tuple[str, str], children: tuple[tuple[str, str], ...] = (), **columns: str
) -> Relation:
    own = dict.fromkeys(sorted(OWN_COLUMNS), "bigint")
    documents = frozenset(column for column, kind in columns.items() if kind in ("json", "jsonb"))
    return Relation(
        name=name,
        columns={"id": "integer", **columns, **own},
        documents=documents,
        parents=parents,
        children=children,
    )


PARENT = relation("parents", children=((AWKWARD, "parent_id"),), inbox_id="integer")
CHILD = relation(
    AWKWARD,
    ("parent_id", "parents"),
    **{"inbox_id": "bigint", "parent_id": "integer", 'a"b': "text", "doc": "jsonb", "plain": "json"},
)


def schema(*columns: str) -> TableSchema:
    return TableSchema(table="t", columns=tuple((name, "text") for name in columns), key=("id",), inbox="inbox_id")


def whole(relation: Relation) -> Form:
    return Form(relation=relation, columns=relation.data, is_partial=False, is_lost=False, skipped=())


def statements(relation: Relation) -> list[str]:
    form = whole(relation)
    return [
        statement
        for statement in (
            upsert.note_parents_of_deleted(relation),
            upsert.delete(relation),
            upsert.wipe(relation),
            upsert.stage_older(relation, of_inboxes=True),
            upsert.stage_older(relation, of_inboxes=False),
            *upsert.make_parents(form),
            upsert.note_parents_left(form),
            upsert.upsert(form),
            upsert.partial_stubs(form),
            upsert.delete_orphans(relation),
            upsert.stubs(relation),
        )
        if statement is not None
    ]


@pytest.mark.parametrize("relation", [PARENT, CHILD], ids=["parent", "child"])
def test_every_statement_names_the_tenant_and_is_one_statement(relation: Relation) -> None:
    for statement in statements(relation):
        assert "%(tenant)s" in statement
        parsed = pglast.parse_sql(statement.replace("%(", "/*").replace(")s", "*/1"))
        assert len(parsed) == 1


def test_names_are_quoted_whatever_they_hold() -> None:
    assert quoted('a"b') == '"a""b"'
    assert literal("a'b") == "'a''b'"
    assert literal("a\\'b") == " E'a\\\\''b'"
    for statement in statements(CHILD):
        assert '"odd ""name"' in statement or "'odd \"name'" in statement
        assert 'a"b' not in statement.replace('"a""b"', "")


def test_parents_stand_before_their_children() -> None:
    graph = {
        each.name: each
        for each in (
            relation("messages", ("conversation_id", "conversations")),
            relation("conversations", ("contact_id", "contacts"), ("inbox_id", "inboxes")),
            relation("inboxes"),
            relation("contacts", ("company_id", "contacts")),
        )
    }
    order = parents_first(graph)
    assert sorted(order) == sorted(graph)
    for name, each in graph.items():
        for _, parent in each.parents:
            assert parent == name or order.index(parent) < order.index(name)


def test_a_form_carries_what_event_and_target_both_have() -> None:
    whole = form(CHILD, schema("id", "inbox_id", "doc", "unheard_of"), [])
    assert (whole.columns, whole.is_partial) == (("inbox_id", "doc"), False)
    partial = form(CHILD, schema("id", "inbox_id", "doc"), ["doc"])
    assert (partial.columns, partial.is_partial) == (("inbox_id",), True)
    assert (whole.parents, form(CHILD, schema("id", "parent_id"), []).parents) == ((), CHILD.parents)


def test_only_carried_columns_are_written() -> None:
    text = upsert.upsert(form(CHILD, schema("id", "inbox_id", "doc", "plain"), ["plain"]))
    assert '"doc" = EXCLUDED."doc"' in text
    assert '"plain"' not in text
    assert "parent_id" not in text


def test_the_columns_that_the_target_adds_are_never_the_sources() -> None:
    own = form(CHILD, schema("id", "tenant_id", "source_epoch", "synced_at", "doc"), [])
    assert own.columns == ("doc",)


def test_columns_that_the_target_lacks_are_named() -> None:
    assert form(CHILD, schema("id", "doc", 'x"y'), []).skipped == (('x"y', "text"),)


def test_a_table_without_children_wipes_nothing_and_one_without_parents_notes_none() -> None:
    assert upsert.wipe(CHILD) is None
    assert upsert.note_parents_of_deleted(PARENT) is None
    assert upsert.note_parents_left(whole(PARENT)) is None
    assert upsert.make_parents(whole(PARENT)) == []


def test_an_inbox_is_its_own_inbox_and_a_contact_has_none() -> None:
    assert relation("inboxes").inbox == "id"
    assert relation("contacts").inbox is None
    assert PARENT.inbox == "inbox_id"
