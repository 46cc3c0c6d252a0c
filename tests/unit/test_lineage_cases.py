"""What is said of each small SELECT of the golden file, and of nothing but the SELECT."""

from __future__ import annotations

import pytest

from replicator.lineage import Path, derive
from tests.lineage_cases import Case, cases, catalog

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_a_select_has_the_lineage_that_the_golden_file_names(case: Case) -> None:
    lineage = derive(case.select, case.key, catalog(case.views))
    assert {table: set(columns) for (_, table), columns in lineage.sources.items()} == case.used
    assert tuple(path.description for path in lineage.paths) == case.paths
    assert tuple(f"{problem.reason}: {problem.sql}" for problem in lineage.problems) == case.refused
    assert dict(lineage.clock) == case.clock
    assert tuple(lineage.unstable) == case.unstable


def test_the_golden_file_is_read_whole() -> None:
    assert len(CASES) >= 70
    assert all(case.used or case.refused for case in CASES)


def test_a_direct_path_names_the_columns_of_the_key_in_its_order() -> None:
    select = "SELECT v.number, v.tenant_id FROM visits v JOIN steps s USING (tenant_id, number)"
    lineage = derive(select, ("number", "tenant_id"), catalog({}))
    assert [(path.table[1], path.direct) for path in lineage.paths] == [
        ("visits", ("number", "tenant_id")),
        ("steps", ("number", "tenant_id")),
    ]


def test_a_lookup_takes_one_array_for_each_start_column_and_gives_the_key_in_its_order() -> None:
    select = "SELECT s.id, v.at FROM steps s LEFT JOIN visits v ON v.tenant_id = s.tenant_id AND v.number = s.number"
    lineage = derive(select, ("id",), catalog({}))
    (path,) = [path for path in lineage.paths if path.lookup]
    assert path.start == ("number", "tenant_id")
    assert path.lookup == (
        'SELECT DISTINCT t1.id FROM unnest(%s::integer[], %s::integer[]) AS s("number", "tenant_id")'
        ' JOIN "public"."steps" AS t1 ON t1.tenant_id = s.tenant_id AND t1.number = s.number'
    )


def test_percent_signs_of_the_definition_are_not_parameters() -> None:
    select = "SELECT c.id, ct.name FROM conversations c JOIN contacts ct ON ct.id = c.contact_id AND c.status % 2 = 0"
    (_, path) = derive(select, ("id",), catalog({})).paths
    assert path.lookup is not None
    assert "% 2".replace("%", "%%") in path.lookup


def test_the_start_columns_are_those_that_the_identities_must_carry() -> None:
    select = "SELECT c.id, ct.name, m.content FROM conversations c JOIN contacts ct ON ct.id = c.contact_id"
    lineage = derive(f"{select} JOIN messages m ON m.conversation_id = c.id", ("id",), catalog({}))
    assert lineage.starts() == {
        ("public", "conversations"): {"id"},
        ("public", "contacts"): {"id"},
        ("public", "messages"): {"conversation_id"},
    }


def test_a_path_by_hand_stands_in_where_none_is_found() -> None:
    select = "SELECT c.id, i.name FROM conversations c CROSS JOIN inboxes i"
    by_hand = Path(table=("public", "inboxes"), start=(), lookup="SELECT id FROM conversations", description="all")
    assert derive(select, ("id",), catalog({})).problems
    lineage = derive(select, ("id",), catalog({}), (by_hand,))
    assert by_hand in lineage.paths
    assert not lineage.problems


def test_a_path_by_hand_makes_the_columns_that_it_starts_from_used() -> None:
    by_hand = Path(table=("public", "contacts"), start=("phone_number",), lookup="SELECT %s", description="by hand")
    lineage = derive("SELECT c.id, c.name FROM contacts c", ("id",), catalog({}), (by_hand,))
    assert lineage.sources == {("public", "contacts"): {"id", "name", "phone_number"}}


def test_a_path_by_hand_from_a_table_that_is_not_read_is_named() -> None:
    by_hand = Path(table=("public", "tags"), start=("id",), lookup="SELECT %s", description="by hand")
    (problem,) = derive("SELECT id FROM conversations", ("id",), catalog({}), (by_hand,)).problems
    assert problem.sql == "public.tags"
    assert "not read here" in problem.reason


def test_an_order_with_ties_is_named_as_it_is_written() -> None:
    rows = "SELECT m.*, lag(m.id) OVER (PARTITION BY m.conversation_id ORDER BY m.id) AS before FROM messages m"
    tied = "string_agg(x.content, ' ' ORDER BY x.created_at, x.before)"
    select = f"SELECT x.conversation_id AS id, {tied} AS texts FROM ({rows}) x GROUP BY x.conversation_id"
    assert derive(select, ("id",), catalog({})).unstable == {"texts": (tied,)}


def test_a_key_must_be_an_output() -> None:
    (problem,) = derive("SELECT id FROM conversations", ("number",), catalog({})).problems
    assert (problem.sql, problem.reason) == ("number", "the key must be outputs of the relation")


def _nested(select: str, depth: int) -> dict[str, str]:
    """Views over views, each by one SELECT over the one before, `%s`."""
    views = {"v0": "SELECT id, contact_id FROM public.conversations"}
    return views | {f"v{n}": select.replace("%s", f"public.v{n - 1}") for n in range(1, depth + 1)}


def test_views_that_mention_others_many_times_are_refused_before_they_take_minutes() -> None:
    select = f"SELECT a0.* FROM %s a0 {' '.join(f'JOIN %s a{n} ON a{n}.id = a0.id' for n in range(1, 20))}"
    (problem,) = derive("SELECT id FROM v5", ("id",), catalog(_nested(select, 5))).problems
    assert problem.reason == "more than 300 mentions of tables once all views are opened"
    assert problem.sql == "public.conversations"


def test_a_select_too_deep_for_pythons_stack_is_a_problem_and_no_error() -> None:
    (problem,) = derive("SELECT id FROM v400", ("id",), catalog(_nested("SELECT a.* FROM %s a", 400))).problems
    assert problem.reason == "nested too deeply to be followed"


def test_rows_that_may_be_chosen_instead_are_bounded_as_mentions_are() -> None:
    picked = "(SELECT id, max(contact_id) AS n FROM %s GROUP BY id)"
    views = _nested(f"SELECT a.id, b.n AS contact_id FROM %s a LEFT JOIN {picked} b ON b.n = a.contact_id", 7)
    assert not derive("SELECT * FROM v2", ("id",), catalog(views)).problems
    (problem,) = derive("SELECT * FROM v7", ("id",), catalog(views)).problems
    assert problem.reason.startswith("128 mentions of tables once all views are opened: too many")


@pytest.mark.parametrize(
    "sql", ["SELECT", "SELECT 1; SELECT 2", "DELETE FROM tags", "SELECT id FROM tags WHERE id = $1"]
)
def test_what_is_not_one_select_is_a_problem_and_no_error(sql: str) -> None:
    lineage = derive(sql, ("id",), catalog({}))
    assert lineage.problems
    assert not lineage.paths
