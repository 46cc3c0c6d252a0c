"""When rows came to a target: asked of the server, which keeps the time of each commit (`track_commit_timestamp`).

So no program is asked about itself, and nobody needs to look while they come. The time is that of the commit record: it
is visible once that is flushed.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import psycopg

from bench import path
from bench.changes import Written
from bench.path import NotMeasured, Service

SHARE: Final = 0.05
"""Of the time that may go into looks."""
_ROWS: Final = """
    SELECT xmin FROM conversations WHERE id BETWEEN %(first)s AND %(last)s AND status = %(status)s
    UNION ALL
    SELECT xmin FROM messages WHERE conversation_id BETWEEN %(first)s AND %(last)s AND status = %(status)s
"""
_SPAN: Final = f"""
WITH came AS (SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at FROM ({_ROWS}) AS r),
    span AS (
        SELECT count(*) AS rows, percentile_disc(%(uncounted)s) WITHIN GROUP (ORDER BY at) AS first, max(at) AS last
        FROM came
    )
SELECT rows, (SELECT count(*) FROM came WHERE at > span.first), first, last FROM span
"""


class Arrived(NamedTuple):
    """Times are seconds since 1970."""

    rows: int
    later: int
    """Those that came after `first`."""
    first: float
    """Of the first commit that counts."""
    last: float

    @property
    def rows_per_second(self) -> float:
        """Since the first commit: nobody knows when that one was begun. Raises NotMeasured if there was no other."""
        if self.last <= self.first:
            raise NotMeasured(f"all {self.rows:,} rows came with one commit: more are needed")
        return self.later / (self.last - self.first)


def wait(service: Service | None, dsn: str, written: Written, status: int, *, uncounted: float = 0.0) -> Arrived:
    """Until all are there. Raises NotMeasured if they do not come, or the service ends.

    `uncounted`: the share of the rows, as they came, by which whoever brings them has warmed up.
    """
    with psycopg.connect(dsn, autocommit=True) as target:
        path.wait(service, lambda: _count(target, written, status) >= written.rows, "all rows", share=SHARE)
        return commits(target, written, status, uncounted)


def commits(connection: psycopg.Connection[Any], written: Written, status: int, uncounted: float = 0.0) -> Arrived:
    """Of those that are there."""
    given = {**written._asdict(), "status": status, "uncounted": uncounted}
    (row,) = connection.execute(_SPAN, given).fetchall()
    return Arrived(*row)


def _count(connection: psycopg.Connection[Any], written: Written, status: int) -> int:
    (row,) = connection.execute(
        f"SELECT count(*) FROM ({_ROWS}) AS r", {**written._asdict(), "status": status}
    ).fetchall()
    return int(row[0])
