"""What a view lacks of leads, and the query that it gets, without a server."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pglast import parse_sql

from replicator.reference_view import ReferenceView
from replicator.view_columns import LEAD_SIGNALS
from replicator.view_extension import extended, lacking
from replicator.view_facts import ViewColumn, ViewFacts

LEADS = ReferenceView(name="leads", query="SELECT id AS conversation_id FROM conversations")
VIEW = ViewFacts(
    schema="public",
    name="final",
    kind="v",
    owner="somebody",
    owner_reads_conversations=True,
    owned=True,
    readable=True,
    takes_writes=False,
    returned_by=(),
    options=(),
    columns=(ViewColumn(name="conversation_id", type_name="bigint"), ViewColumn(name="Since", type_name="date")),
    definition=' SELECT c.id AS conversation_id,\n    c.since AS "Since"\n   FROM conversations c;',
)


def _of(**types: str) -> ViewFacts:
    return replace(VIEW, columns=tuple(ViewColumn(name=name, type_name=kind) for name, kind in types.items()))


@pytest.mark.parametrize(
    ("view", "lacks"),
    [
        (VIEW, tuple(LEAD_SIGNALS)),
        (_of(conversation_id="integer", **LEAD_SIGNALS), ()),
        (_of(crm_converted="text", conversation_id="integer"), tuple(n for n in LEAD_SIGNALS if n != "crm_converted")),
        (_of(conversation_id="text"), ()),
        (_of(inbox_id="integer"), ()),
        (replace(VIEW, kind="m"), ()),
    ],
)
def test_only_a_view_of_conversations_lacks_something(view: ViewFacts, lacks: tuple[str, ...]) -> None:
    assert lacking(view) == lacks


@pytest.mark.parametrize(
    ("ending", "order"),
    [
        ("", ""),
        ("ORDER BY c.since DESC, c.id", 'ORDER BY before."Since" DESC, before.conversation_id'),
        ("ORDER BY c.since DESC NULLS LAST LIMIT 5", 'ORDER BY before."Since" DESC NULLS LAST'),
        ("ORDER BY c.id, c.name, c.since", "ORDER BY before.conversation_id"),
        ("ORDER BY c.id USING OPERATOR(pg_catalog.>)", ""),
        ("ORDER BY c.name, c.id", ""),
        ("UNION ALL SELECT 1, NULL ORDER BY 2 DESC", 'ORDER BY before."Since" DESC'),
    ],
)
def test_rows_come_in_the_order_that_the_columns_tell(ending: str, order: str) -> None:
    query = extended(replace(VIEW, definition=f"{VIEW.definition.removesuffix(';')} {ending};"), LEADS)
    parse_sql(query)
    last = query.splitlines()[-1]
    assert (last if last.startswith("ORDER BY") else "") == order


@pytest.mark.parametrize(
    ("options", "as_invoker"),
    [
        ((), False),
        (("security_barrier=true",), False),
        (("security_invoker=false",), False),
        (("security_barrier=true", "security_invoker=on"), True),
    ],
)
def test_whose_rights_a_view_reads_with(options: tuple[str, ...], as_invoker: bool) -> None:
    assert replace(VIEW, options=options).reads_as_invoker is as_invoker
