"""Judges what polling would find, when, and at what price.

Pure: facts and settings in, findings out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from replicator.config import Settings
from replicator.facts import PolledFacts
from replicator.findings import OPERATOR, Finding, note, ok, refusal, warning
from replicator.relations import ANALYTICS, SHIPPED
from replicator.remedies import quoted, script, table_name

CHEAP_MS: Final = 10.0
"""A query that takes no longer needs no index."""
NO_INDEX: Final = "\n-- to be weighed: every UPDATE of a row then writes to each index of the table (no HOT updates)"


def can_poll(polled: Iterable[PolledFacts]) -> bool:
    """Whether there is anything that could be polled."""
    return any(not each.problem for each in polled)


def judge_polling(polled: Sequence[PolledFacts], role: str, settings: Settings) -> list[Finding]:
    """One finding for each relation; then the share of time, and how long a rolling pass takes."""
    if not polled:
        reason = "there is nothing to poll: REPLICATOR_VIEW is empty, and REPLICATOR_POLL_TABLES not set"
        return [refusal("poll", "polling", reason, "set one of them", whose=OPERATOR)]
    judged = [_judge(each, role, settings, alone=not can_poll(polled)) for each in polled]
    readable = [each for each in polled if not each.problem]
    return [*judged, _judge_share(readable, settings), _judge_pass(readable, settings)] if readable else judged


def _judge(polled: PolledFacts, role: str, settings: Settings, *, alone: bool) -> Finding:
    """`alone`: nothing else can be polled either."""
    if polled.problem:
        judge = refusal if alone else warning
        return judge("poll", polled.name, f"can't be polled: {polled.problem}", _grant(polled.name, role, settings))
    cost = f"{polled.took_ms:.1f} ms where nothing has changed, cost {polled.cost:,.0f}"
    if polled.is_appended:
        return ok("poll", polled.name, f"new rows by their keys, {cost}; changed ones by the rolling pass")
    if not polled.updated:
        return note("poll", polled.name, "no column says when a row was written: only the rolling pass finds changes")
    found = f"changed rows by {polled.updated}, {cost}"
    stamp = polled.stamp
    if stamp is None or stamp.table not in polled.scanned:
        return ok("poll", polled.name, found)
    if stamp.is_indexed or polled.took_ms <= CHEAP_MS:
        return ok("poll", polled.name, f"{found}; reads all of {', '.join(polled.scanned)}")
    index = quoted(f"{stamp.table[:40]}_{stamp.column[:20]}")
    table = f"{quoted(stamp.schema)}.{quoted(stamp.table)}"
    return note(
        "poll",
        polled.name,
        f"{found}; reads all of {', '.join(polled.scanned)}: no index begins with {stamp.table}.{stamp.column}",
        script(f"CREATE INDEX CONCURRENTLY {index} ON {table} ({quoted(stamp.column)})") + NO_INDEX,
    )


def _grant(relation: str, role: str, settings: Settings) -> str:
    if relation in settings.derived:
        return f"mend it in REPLICATOR_DERIVED, or let {quoted(role)} read what it reads"
    tables = [settings.view] if relation == ANALYTICS else [table.name for table in SHIPPED]
    return script(
        f"GRANT USAGE ON SCHEMA {quoted(settings.source_schema)} TO {quoted(role)}",
        *(f"GRANT SELECT ON {table_name(settings, table)} TO {quoted(role)}" for table in tables),
    )


def _judge_share(polled: Sequence[PolledFacts], settings: Settings) -> Finding:
    """Of the polls alone: a rolling pass takes what they leave."""
    took_s = sum(each.took_ms for each in polled) / 1000
    every_s = took_s / settings.poll_share
    subject = f"REPLICATOR_POLL_SHARE={settings.poll_share:g}"
    if every_s > settings.poll_interval_s:
        return warning(
            "poll_share",
            subject,
            f"a poll takes {took_s:.2f} s of queries: there is one every {every_s:.0f} s, not every "
            f"{settings.poll_interval_s:g} s, and nothing is left for the rolling pass",
            "an index as shown above, a longer REPLICATOR_POLL_INTERVAL_S or a greater REPLICATOR_POLL_SHARE",
            whose=OPERATOR,
        )
    return ok(
        "poll_share",
        subject,
        f"polls take {took_s / settings.poll_interval_s:.1%} of the time, one every {settings.poll_interval_s:g} s",
        whose=OPERATOR,
    )


def _judge_pass(polled: Sequence[PolledFacts], settings: Settings) -> Finding:
    """What a rolling pass of all relations takes, by the pace or by the share, whichever is slower."""
    rows = sum(each.rows for each in polled)
    spent_s = sum(each.rows * each.key_ms for each in polled) / 1000
    took_s = max(rows / settings.digest_keys_per_second, spent_s / settings.poll_share)
    return note(
        "poll_pass",
        f"about {rows:,} rows",
        f"a rolling pass takes some {took_s:,.0f} s, {spent_s:,.0f} s of them in queries: what no stamp tells of "
        "(deletes, renames, edits) is found within two passes",
        whose=OPERATOR,
    )
