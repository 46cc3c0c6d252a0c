"""What was ever written to a table of the target, change by change, beside what stands there in the end.

A trigger notes each row operation in the transaction that makes it, so what was rolled back is not here.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.integration.targets import Target

SETUP = """
    CREATE TABLE IF NOT EXISTS written (
        number bigint GENERATED ALWAYS AS IDENTITY, pid integer, relation text, op text, tenant integer, id bigint,
        inbox bigint
    );
    CREATE OR REPLACE FUNCTION note_written() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE
        touched jsonb := to_jsonb(COALESCE(NEW, OLD));
    BEGIN
        INSERT INTO public.written (pid, relation, op, tenant, id, inbox) VALUES (
            pg_backend_pid(), TG_TABLE_NAME, lower(left(TG_OP, 1)), (touched ->> 'tenant_id')::integer,
            (touched ->> 'id')::bigint, (touched ->> 'inbox_id')::bigint
        );
        RETURN NULL;
    END $$;
"""


class Write(NamedTuple):
    op: str
    """i, u or d."""
    tenant: int
    inbox: int | None
    pid: int
    """Of the session that wrote it."""


class Written:
    """Notes from now on."""

    def __init__(self, target: Target, relation: str = "messages") -> None:
        self._target, self._relation = target, relation
        target.execute(SETUP)
        target.execute(
            f"CREATE TRIGGER note_written AFTER INSERT OR UPDATE OR DELETE ON {relation}"
            " FOR EACH ROW EXECUTE FUNCTION note_written()"
        )

    def of(self, row: int) -> list[Write]:
        """In the order of writing."""
        return [
            Write(*found)
            for found in self._target.rows(
                "SELECT op, tenant, inbox, pid FROM written WHERE relation = %s AND id = %s ORDER BY number",
                self._relation,
                row,
            )
        ]

    def ops(self, row: int) -> str:
        """`iud`: inserted, updated, deleted."""
        return "".join(write.op for write in self.of(row))
