"""Our own SQL, statement by statement, compared with the catalogue.

A statement whose effect is there already leads to nothing; one whose effect is missing is a step; a table that exists
is adopted (`consumers.adoption`). Nothing is ever dropped or narrowed: what only a person may change is a finding, and
what makes applying unsafe is a refusal. What is shown and what is done come from here, so that they can't differ. Only
reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Final

import pglast
from pglast import ast, enums
from pglast.stream import RawStream
from pglast.visitors import Visitor

from consumers.adoption import adopt, names
from consumers.catalogue import Catalogue, Part, Policy, Privileged
from consumers.identifiers import quoted
from consumers.migrations import Migration, Statement
from consumers.plan import Finding, Item, Step, finding, note, refusal
from consumers.surroundings import READERS

_GRANTABLE: Final[dict[enums.ObjectType, Privileged]] = {
    enums.ObjectType.OBJECT_TABLE: "table",
    enums.ObjectType.OBJECT_SCHEMA: "schema",
    enums.ObjectType.OBJECT_FUNCTION: "function",
}
_COMMANDS: Final = {"all": "*", "select": "r", "insert": "a", "update": "w", "delete": "d"}
_RESULTS: Final = {enums.FunctionParameterMode.FUNC_PARAM_OUT, enums.FunctionParameterMode.FUNC_PARAM_TABLE}


def compare(catalogue: Catalogue, migration: Migration) -> Iterator[Item]:
    """What this migration would still do, in order, ending with its record."""
    return _Comparison(catalogue, migration).items()


class _Comparison:
    """One migration's statements against the catalogue."""

    def __init__(self, catalogue: Catalogue, migration: Migration) -> None:
        self._now, self._migration = catalogue, migration
        self._is_recorded = migration.version == 0 or catalogue.applied.get(migration.version) == migration.checksum

    def items(self) -> Iterator[Item]:
        for statement in self._migration.statements:
            yield from _COMPARE[type(statement.node)](self, statement)
        if not self._is_recorded:
            yield self._step(
                f"record version {self._migration.version} ({self._migration.name})", _record(self._migration)
            )

    def _step(self, does: str, sql: str) -> Step:
        return Step(version=self._migration.version, does=does, sql=sql)

    def schema(self, statement: Statement) -> Iterator[Item]:
        if not self._now.schema_exists:
            yield self._step(f"create schema {statement.node.schemaname}", statement.sql)

    def role(self, statement: Statement) -> Iterator[Item]:
        if statement.node.role not in self._now.roles:
            role = statement.node.role
            yield Step(version=self._migration.version, does=f"create role {role}", sql=statement.sql, makes_role=role)

    def table(self, statement: Statement) -> Iterator[Item]:
        table = statement.node.relation.relname
        existing = self._now.relations.get(table)
        if existing is None:
            yield self._step(f"create table {table}", statement.sql)
        elif existing.kind not in ("r", "p"):
            yield refusal(f"{table} exists and is no table: rename it, or set CONSUMERS_TARGET_SCHEMA")
        elif not existing.is_ours:
            yield from self._foreign(table, existing.owner)
        else:
            for item in adopt(self._now, statement.node):
                yield item if isinstance(item, Finding) else self._step(*item)

    def _foreign(self, table: str, owner: str) -> Iterator[Item]:
        """Another role's table can't be altered; a session that only looks is not refused for that."""
        if not self._is_recorded:
            yield refusal(f"table {table} belongs to {owner}: CONSUMERS_SETUP_DSN must name its owner")

    def index(self, statement: Statement) -> Iterator[Item]:
        name, table = statement.node.idxname, statement.node.relation.relname
        existing = self._now.relations.get(name)
        if existing is None:
            yield self._step(f"create index {name} on {table}", statement.sql)
        elif existing.indexed != table:
            yield refusal(f"{name} exists and is no index on {table}: rename it")

    def security(self, statement: Statement) -> Iterator[Item]:
        table = statement.node.relation.relname
        existing = self._now.relations.get(table)
        kinds = {command.subtype for command in statement.node.cmds}
        force = enums.AlterTableType.AT_ForceRowSecurity in kinds
        if existing is None or not existing.secured or (force and not existing.forced):
            yield self._step(f"{'force' if force else 'enable'} row-level security on {table}", statement.sql)
            if existing is not None and (losing := self._now.seeing_less(table, forced=force)):
                yield note(
                    f"on {table} these roles will only see what app.current_tenant_id, or a policy, lets them:"
                    f" {', '.join(losing)}"
                )
            if existing is not None and force and (views := self._now.views_of(table)):
                yield note(
                    f"views that read {table} as its owner will show no more than that either: {', '.join(views)}"
                )
        if existing is not None and existing.forced and not force and self._is_hidden(table):
            yield refusal(
                f"row-level security is forced on {table}, so that {self._now.session_role}, who keeps it, does not see"
                f" all its rows: ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY, or make a policy that shows them"
            )
        for part in self._now.parts(table) if existing is not None else ():
            if not part.secured:
                yield from self._part(part, table)

    def _is_hidden(self, table: str) -> bool:
        """Whether policies, as far as they can be told, keep rows of a forced table from the session's role."""
        role = self._now.roles[self._now.session_role]
        return not (role.is_superuser or role.bypasses_security) and not any(
            secured == table
            and policy.permissive
            and policy.command in ("*", "r")
            and policy.using == "true"
            and (not policy.roles or self._now.session_role in policy.roles)
            for (secured, _), policy in self._now.policies.items()
        )

    def _part(self, part: Part, table: str) -> Iterator[Item]:
        """Whoever may read a partition reads it past its table's policies: so nobody may see a row there."""
        if not part.is_ours:
            yield refusal(f"{part.name}, a part of {table}, belongs to {part.owner}: run setup as its owner")
            return
        yield self._step(
            f"force row-level security on {part.name}",
            f"ALTER TABLE {part.name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        )
        if losing := self._now.seeing_less_of(part.name, forced=True):
            yield note(f"in {part.name} these roles will see nothing, but in {table} their rows: {', '.join(losing)}")

    def policy(self, statement: Statement) -> Iterator[Item]:
        node = statement.node
        table, name = node.table.relname, node.policy_name
        existing, found = self._now.policies.get((table, name)), self._now.relations.get(table)
        wanted = [role.rolename for role in node.roles if role.rolename]
        is_for_all = node.permissive and not wanted
        if existing is None:
            if is_for_all and found is not None and found.secured:
                yield self._policy_for_us(statement, self._our_roles(table, found.owner))
            else:
                yield self._step(f"create policy {name} on {table}", statement.sql)
            return
        if not _same_policy(existing, node):
            yield refusal(f"{table} has another policy named {name}: rename it")
            return
        if is_for_all and existing.roles and found is not None:
            wanted = self._our_roles(table, found.owner)
        if absent := [role for role in wanted if role not in existing.roles]:
            everyone = ", ".join(quoted(role) for role in (*existing.roles, *absent))
            yield self._step(
                f"extend policy {name} on {table} to {', '.join(absent)}",
                f"ALTER POLICY {quoted(name)} ON {quoted(table)} TO {everyone}",
            )

    def _policy_for_us(self, statement: Statement, roles: list[str]) -> Item:
        """Where row-level security binds already, others go on seeing and writing what it lets them, and no more."""
        node: Any = pglast.parse_sql(statement.sql)[0].stmt
        node.roles = tuple(ast.RoleSpec(roletype=enums.RoleSpecType.ROLESPEC_CSTRING, rolename=role) for role in roles)
        does = f"create policy {node.policy_name} on {node.table.relname} for {', '.join(roles)}"
        return self._step(does, RawStream()(node))

    def _our_roles(self, table: str, owner: str) -> list[str]:
        """Those that our other policies on the table name, readers, and the owner, whom FORCE binds."""
        policies: list[Any] = [s.node for s in self._migration.statements if isinstance(s.node, ast.CreatePolicyStmt)]
        named = [role.rolename for node in policies if node.table.relname == table for role in node.roles]
        return list(dict.fromkeys([*filter(None, named), READERS, owner]))

    def function(self, statement: Statement) -> Iterator[Item]:
        node = statement.node
        inputs = [parameter.argType for parameter in node.parameters or () if parameter.mode not in _RESULTS]
        signature = _signature(node.funcname, inputs)
        yield from self._replace("function", signature, signature in self._now.functions, statement.sql)

    def view(self, statement: Statement) -> Iterator[Item]:
        name = statement.node.view.relname
        existing = self._now.relations.get(name)
        if existing is not None and existing.kind != "v":
            yield refusal(f"{name} exists and is no view: rename it")
        else:
            yield from self._replace("view", name, existing is not None, statement.sql)

    def trigger(self, statement: Statement) -> Iterator[Item]:
        name, table = statement.node.trigname, statement.node.relation.relname
        yield from self._replace("trigger", f"{name} on {table}", (table, name) in self._now.triggers, statement.sql)

    def _replace(self, kind: str, name: str, exists: bool, sql: str) -> Iterator[Item]:
        """CREATE OR REPLACE: needed where the object is missing, or its file was never applied as it is now."""
        if not exists:
            yield self._step(f"create {kind} {name}", sql)
        elif not self._is_recorded:
            yield self._step(f"replace {kind} {name}", sql)

    def call(self, statement: Statement) -> Iterator[Item]:
        """SELECT function(): what is done once to the rows that were there before its file."""
        if self._migration.version not in self._now.applied:
            called: Any = statement.node.targetList[0].val
            yield self._step(f"call {called.funcname[-1].sval}(), once", statement.sql)

    def grant(self, statement: Statement) -> Iterator[Item]:
        node = statement.node
        if node.objtype == enums.ObjectType.OBJECT_DATABASE:
            yield from self._grant_database([role.rolename for role in node.grantees], _rights(node))
            return
        roles = [role.rolename or "public" for role in node.grantees]
        objects = [_object(node, target) for target in node.objects]
        open_ends = [
            (name, role)
            for name in objects
            for role in roles
            if (self._revocable(name) if not node.is_grant else self._ungranted(node, name, role))
        ]
        if open_ends:
            verb, end = ("grant", "to") if node.is_grant else ("revoke", "from")
            rights = ", ".join(_rights(node)) or "all"
            on = ", ".join(dict.fromkeys(name for name, _ in open_ends))
            whom = ", ".join(dict.fromkeys(role for _, role in open_ends))
            yield self._step(f"{verb} {rights} on {on} {end} {whom}", statement.sql)
        if node.is_grant and node.objtype == enums.ObjectType.OBJECT_TABLE and "insert" in _rights(node):
            yield from self._sequences(objects, roles)

    def _grant_database(self, roles: list[str], rights: list[str]) -> Iterator[Item]:
        """On the session's own database, which may be another role's: then PostgreSQL would only warn."""
        database = self._now.database
        # A role that is yet to be made will have what everybody has.
        known = {role: role if role in self._now.roles else "public" for role in roles}
        lacking = [role for role in roles if self._now.lacks(known[role], "database", database, rights)]
        if not lacking:
            return
        whom = ", ".join(map(quoted, lacking))
        sql = f"GRANT {', '.join(rights).upper()} ON DATABASE {quoted(database)} TO {whom}"
        options = [f"{right} WITH GRANT OPTION" for right in rights]
        if self._now.lacks(self._now.session_role, "database", database, options):
            yield finding(f"{self._now.session_role} may not do what every worker needs done: {sql}")
        else:
            yield self._step(f"grant {', '.join(rights)} on {database} to {', '.join(lacking)}", sql)

    def _ungranted(self, node: Any, name: str, role: str) -> bool:
        kind = _GRANTABLE[node.objtype]
        present = {
            "schema": self._now.schema_exists,
            "table": name in self._now.relations,
            "function": name in self._now.functions,
        }[kind]
        if not present:
            return True
        whole = [right.priv_name for right in node.privileges if not right.cols]
        return self._now.lacks(role, kind, name, whole) or any(
            self._now.lacks_columns(role, name, names(right.cols), right.priv_name)
            for right in node.privileges
            if right.cols
        )

    def _revocable(self, function: str) -> bool:
        """PostgreSQL lets everybody execute a new function."""
        return function not in self._now.functions or not self._now.lacks("public", "function", function, ["EXECUTE"])

    def _sequences(self, tables: list[str], roles: list[str]) -> Iterator[Item]:
        for table in tables:
            for sequence in self._now.sequences(table) if table in self._now.relations else ():
                for role in roles:
                    if self._now.lacks(role, "sequence", sequence, ["USAGE"]):
                        yield self._step(
                            f"grant usage on sequence {sequence} to {role}",
                            f"GRANT USAGE ON SEQUENCE {quoted(sequence)} TO {quoted(role)}",
                        )


_COMPARE: Final[dict[type[ast.Node], Callable[[_Comparison, Statement], Iterator[Item]]]] = {
    ast.CreateSchemaStmt: _Comparison.schema,
    ast.CreateRoleStmt: _Comparison.role,
    ast.CreateStmt: _Comparison.table,
    ast.IndexStmt: _Comparison.index,
    ast.AlterTableStmt: _Comparison.security,
    ast.CreatePolicyStmt: _Comparison.policy,
    ast.CreateFunctionStmt: _Comparison.function,
    ast.ViewStmt: _Comparison.view,
    ast.CreateTrigStmt: _Comparison.trigger,
    ast.GrantStmt: _Comparison.grant,
    ast.SelectStmt: _Comparison.call,
}


def _record(migration: Migration) -> str:
    """Name and checksum come from our own files; the literal is safe."""
    return (
        f"INSERT INTO replication_migrations (version, name, checksum)"
        f" VALUES ({migration.version}, '{migration.name}', '{migration.checksum}')"
        f" ON CONFLICT (version) DO UPDATE SET name = EXCLUDED.name, checksum = EXCLUDED.checksum, applied_at = now()"
    )


def _signature(name: Any, types: Iterable[Any]) -> str:
    return f"{name[-1].sval}({', '.join(RawStream()(type_name) for type_name in types)})"


def _object(node: Any, target: Any) -> str:
    """The name of what is granted: a table, a schema, or a function with its argument types."""
    if node.objtype == enums.ObjectType.OBJECT_TABLE:
        return str(target.relname)
    if node.objtype == enums.ObjectType.OBJECT_SCHEMA:
        return str(target.sval)
    return _signature(target.objname, target.objargs or ())


def _rights(node: Any) -> list[str]:
    return [right.priv_name for right in node.privileges or ()]


def _same_policy(found: Policy, node: Any) -> bool:
    return (
        found.command == _COMMANDS[node.cmd_name]
        and found.permissive == node.permissive
        and canonical(found.using) == canonical(node.qual and RawStream()(node.qual))
        and canonical(found.check) == canonical(node.with_check and RawStream()(node.with_check))
    )


class _Plain(Visitor):
    """Takes away what PostgreSQL adds when it prints an expression: casts of constants, names of results."""

    def visit_TypeCast(self, ancestors: Any, node: Any) -> Any:  # noqa: N802  # pglast's naming
        return node.arg if isinstance(node.arg, ast.A_Const) and isinstance(node.arg.val, ast.String) else None

    def visit_ResTarget(self, ancestors: Any, node: Any) -> Any:  # noqa: N802  # pglast's naming
        node.name = None


@lru_cache(maxsize=512)
def canonical(expression: str | None) -> str | None:
    """The same text for what is written in our files and what PostgreSQL prints of it."""
    if expression is None:
        return None
    tree = pglast.parse_sql(f"SELECT {expression}")
    _Plain()(tree)
    return str(RawStream()(tree))
