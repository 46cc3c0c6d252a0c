"""What one schema of the target holds now, as PostgreSQL's catalogue says.

Only reads, and sees what the connection's current snapshot sees. Knows nothing of what should be there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

import psycopg

Privileged = Literal["database", "table", "schema", "function", "sequence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table, view, index or sequence."""

    kind: str
    """pg_class.relkind: r and p are tables, v a view, i and I indexes."""
    owner: str
    is_ours: bool
    """Whether the session's role has the owner's rights."""
    secured: bool
    forced: bool
    indexed: str
    """For an index: its table."""
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A partition, at any depth, or a table that inherits."""

    name: str
    """As SQL: quoted, and with its schema if that is another."""
    owner: str
    is_ours: bool
    """As a relation's."""
    secured: bool
    """Row-level security is forced."""
    policies: tuple[str, ...]
    """Permissive ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    type: str
    """As format_type prints it."""
    required: bool
    """NOT NULL without a default: whoever inserts must give a value."""
    fills_itself: bool
    """It has a default, or counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    columns: tuple[str, ...]
    parent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    command: str
    """pg_policy.polcmd: `*` all, `r` SELECT, `a` INSERT, `w` UPDATE, `d` DELETE."""
    permissive: bool
    roles: tuple[str, ...]
    """Empty: PUBLIC."""
    using: str | None
    check: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    is_superuser: bool
    bypasses_security: bool
    can_log_in: bool


class Catalogue:
    """A reading of one schema, made when constructed; privileges and types are asked for as needed."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        self._connection, self.schema = connection, schema
        self.session_role, self.database = map(str, self._rows("SELECT current_user, current_database()")[0])
        self.server_version = connection.info.server_version
        self.schema_exists = bool(self._rows("SELECT 1 FROM pg_namespace WHERE nspname = %s", schema))
        self.relations = self._relations()
        self.columns = self._columns()
        self.primary_keys, self.unique_keys = self._unique_keys()
        self.constraints = self._constraints()
        self.checks = self._checks()
        self.foreign_keys = self._foreign_keys()
        self.policies = self._policies()
        self.triggers = {(table, name) for table, name in self._rows(_TRIGGERS, schema)}
        self.functions = {str(name) for (name,) in self._rows(_FUNCTIONS, schema)}
        self.roles = {
            name: Role(is_superuser=superuser, bypasses_security=bypass, can_log_in=login)
            for name, superuser, bypass, login in self._rows(_ROLES)
        }
        self.applied = self._applied()

    def types(self, wanted: Sequence[str]) -> list[str]:
        """How PostgreSQL itself prints these types: asked by the description of an empty result."""
        cursor = self._connection.execute(f"SELECT {', '.join(f'NULL::{name}' for name in wanted)} LIMIT 0".encode())
        result = cursor.pgresult
        assert result is not None  # noqa: S101  # an executed cursor has one
        codes = [(result.ftype(i), result.fmod(i)) for i in range(result.nfields)]
        rows = self._rows(
            "SELECT format_type(c.type, c.mod) FROM unnest(%s::oid[], %s::int[]) WITH ORDINALITY AS c (type, mod, n)"
            " ORDER BY n",
            [code for code, _ in codes],
            [mod for _, mod in codes],
        )
        return [str(name) for (name,) in rows]

    def users_of(self, table: str) -> dict[str, list[str]]:
        """By column: what keeps PostgreSQL from altering its type: views, policies, triggers, generated columns, …"""
        found: dict[str, list[str]] = {}
        for column, user in self._rows(_USERS, self._name(table)):
            found.setdefault(column, []).append(user)
        return found

    def views_of(self, table: str) -> list[str]:
        """Views that read the table with their owner's rights, as SQL names them."""
        return [str(name) for (name,) in self._rows(_VIEWS, self._name(table))]

    def knows_type(self, name: str) -> bool:
        """Whether a column may have this type; the name must parse as one."""
        return bool(self._rows("SELECT 1 FROM pg_type WHERE oid = to_regtype(%s) AND typtype <> 'p'", name))

    def readers(self, view: str) -> list[str]:
        """Roles, besides the owner, that were given SELECT."""
        return [str(name) for (name,) in self._rows(_READERS, self._name(view))]

    def has_rows(self, table: str) -> bool:
        """Whether the table holds any row that this session sees."""
        return bool(self._rows(f"SELECT EXISTS (SELECT FROM {self._name(table)})".encode())[0][0])

    def lacks(self, role: str, kind: Privileged, name: str, privileges: Iterable[str]) -> bool:
        """Whether the role (`public`: everybody) does not have all these rights on an object that exists."""
        if role != "public" and role not in self.roles:
            return True
        target = name if kind in ("database", "schema") else self._name(name)
        return any(
            not self._rows(f"SELECT has_{kind}_privilege(%s, %s, %s)".encode(), role, target, privilege)[0][0]
            for privilege in privileges
        )

    def lacks_columns(self, role: str, table: str, columns: Iterable[str], privilege: str) -> bool:
        """The same for a right on single columns."""
        present = self.columns.get(table, {})
        return role not in self.roles or any(
            column not in present
            or not self._rows(
                "SELECT has_column_privilege(%s, %s, %s, %s)", role, self._name(table), column, privilege
            )[0][0]
            for column in columns
        )

    def sequences(self, table: str) -> list[str]:
        """Those of the schema that the columns' defaults count in: inserting needs a right of its own on them."""
        return [str(name) for (name,) in self._rows(_SEQUENCES, self._name(table))]

    def parts(self, table: str) -> list[Part]:
        """Of a table that exists: what holds some of its rows, and may be read past it."""
        return [
            Part(name=name, owner=owner, is_ours=ours, secured=secured, policies=tuple(policies))
            for name, owner, ours, secured, policies in self._rows(_PARTS, self._name(table))
        ]

    def seeing_less(self, table: str, *, forced: bool) -> list[str]:
        """Roles that reach the table's rows now and that row-level security would bind for the first time."""
        return self.seeing_less_of(self._name(table), forced=forced)

    def seeing_less_of(self, name: str, *, forced: bool) -> list[str]:
        """The same for a table named as SQL."""
        return [str(role) for (role,) in self._rows(_SEEING_LESS, forced, name)]

    def _name(self, name: str) -> str:
        """Qualified and quoted, with a function's argument types left as they are."""
        plain, parenthesis, arguments = name.partition("(")
        quote = psycopg.sql.Identifier(self.schema, plain).as_string(self._connection)
        return quote + parenthesis + arguments

    def _rows(self, query: LiteralString | bytes, *parameters: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, parameters or None).fetchall()

    def _relations(self) -> dict[str, Relation]:
        return {
            name: Relation(
                kind=kind,
                owner=owner,
                is_ours=ours,
                secured=secured,
                forced=forced,
                indexed=indexed or "",
                comment=comment or "",
            )
            for name, kind, owner, ours, secured, forced, indexed, comment in self._rows(_RELATIONS, self.schema)
        }

    def _columns(self) -> dict[str, dict[str, Column]]:
        found: dict[str, dict[str, Column]] = defaultdict(dict)
        for table, name, type_name, required, fills_itself in self._rows(_COLUMNS, self.schema):
            found[table][name] = Column(type=type_name, required=required, fills_itself=fills_itself)
        return dict(found)

    def _unique_keys(self) -> tuple[set[str], dict[str, set[frozenset[str]]]]:
        primary, unique = set(), defaultdict(set)
        for table, is_primary, columns in self._rows(_UNIQUE_KEYS, self.schema):
            unique[table].add(frozenset(columns))
            if is_primary:
                primary.add(table)
        return primary, dict(unique)

    def _constraints(self) -> set[tuple[str, str]]:
        return {(table, name) for table, name in self._rows(_CONSTRAINTS, self.schema)}

    def _checks(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for table, name in self._rows(_CHECKS, self.schema):
            found[table].add(name)
        return dict(found)

    def _foreign_keys(self) -> dict[str, set[ForeignKey]]:
        found: dict[str, set[ForeignKey]] = defaultdict(set)
        for table, parent, columns in self._rows(_FOREIGN_KEYS, self.schema):
            found[table].add(ForeignKey(columns=tuple(columns), parent=parent))
        return dict(found)

    def _policies(self) -> dict[tuple[str, str], Policy]:
        return {
            (table, name): Policy(command=command, permissive=permissive, roles=tuple(roles), using=using, check=check)
            for table, name, command, permissive, roles, using, check in self._rows(_POLICIES, self.schema)
        }

    def _applied(self) -> dict[int, str]:
        """Checksums by version; none if the list does not exist yet or may not be read."""
        name = "replication_migrations"
        if name not in self.relations or self.lacks(self.session_role, "table", name, ["SELECT"]):
            return {}
        return dict(self._rows(f"SELECT version, checksum FROM {self._name(name)}".encode()))


_RELATIONS: LiteralString = """
    SELECT c.relname, c.relkind::text, pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE'),
        c.relrowsecurity, c.relforcerowsecurity, t.relname, obj_description(c.oid, 'pg_class')
    FROM pg_class c
    LEFT JOIN pg_index i ON i.indexrelid = c.oid
    LEFT JOIN pg_class t ON t.oid = i.indrelid
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"""

_COLUMNS: LiteralString = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
        a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', a.atthasdef OR a.attidentity <> ''
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)
        AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY c.relname, a.attnum"""

_UNIQUE_KEYS: LiteralString = """
    SELECT c.relname, i.indisprimary,
        (SELECT array_agg(a.attname::text) FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s) AND c.relkind IN ('r', 'p')
        AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL"""

_CONSTRAINTS: LiteralString = """
    SELECT c.relname, k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"""

_CHECKS: LiteralString = """
    SELECT c.relname, k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE k.contype = 'c' AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"""

_FOREIGN_KEYS: LiteralString = """
    SELECT c.relname, p.relname,
        (SELECT array_agg(a.attname::text ORDER BY key.n) FROM unnest(k.conkey) WITH ORDINALITY AS key (attnum, n)
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = key.attnum)
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
    WHERE k.contype = 'f' AND p.relnamespace = c.relnamespace
        AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"""

_POLICIES: LiteralString = """
    SELECT c.relname, p.polname, p.polcmd::text, p.polpermissive,
        ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.oid = ANY (p.polroles) ORDER BY 1),
        pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"""

_PARTS: LiteralString = """
    WITH RECURSIVE parts (oid) AS (
        SELECT inhrelid FROM pg_inherits WHERE inhparent = %s::regclass
        UNION SELECT i.inhrelid FROM pg_inherits i JOIN parts p ON i.inhparent = p.oid
    )
    SELECT c.oid::regclass::text, pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE'),
        c.relrowsecurity AND c.relforcerowsecurity,
        ARRAY(SELECT p.polname::text FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive ORDER BY 1)
    FROM pg_class c JOIN parts p ON p.oid = c.oid ORDER BY 1"""

_TRIGGERS: LiteralString = """
    SELECT c.relname, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE NOT t.tgisinternal AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"""

_FUNCTIONS: LiteralString = """
    SELECT p.proname || '(' || oidvectortypes(p.proargtypes) || ')' FROM pg_proc p
    WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"""

_ROLES: LiteralString = "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin FROM pg_roles"

_READERS: LiteralString = """
    SELECT r.rolname FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS given JOIN pg_roles r
        ON r.oid = given.grantee
    WHERE c.oid = %s::regclass AND given.privilege_type = 'SELECT' AND r.oid <> c.relowner ORDER BY r.rolname"""

_SEQUENCES: LiteralString = """
    SELECT DISTINCT s.relname
    FROM pg_class c
    JOIN pg_attrdef f ON f.adrelid = c.oid
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
    JOIN pg_class s ON d.refclassid = 'pg_class'::regclass AND s.oid = d.refobjid AND s.relkind = 'S'
    WHERE c.oid = %s::regclass AND s.relnamespace = c.relnamespace ORDER BY 1"""

# A role is bound now if the table is secured and the role is not (a member of) an owner who is let through; it will be
# bound unless it is such an owner and the table is not forced. Predefined roles (pg_…) are nobody's login.
_SEEING_LESS: LiteralString = """
    SELECT r.rolname
    FROM pg_roles r, (SELECT %s AS forced) AS soon, pg_class c
    WHERE c.oid = %s::regclass AND NOT r.rolsuper AND NOT r.rolbypassrls AND r.rolname !~ '^pg_'
        AND has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE')
        AND (soon.forced OR NOT pg_has_role(r.oid, c.relowner, 'USAGE'))
        AND NOT (c.relrowsecurity AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE')))
    ORDER BY r.rolname"""

_VIEWS: LiteralString = """
    SELECT DISTINCT v.oid::regclass::text
    FROM pg_depend AS d
    JOIN pg_rewrite AS w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    JOIN pg_class AS v ON v.oid = w.ev_class AND v.relkind = 'v'
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %s::regclass
        AND NOT COALESCE(
            (SELECT o.option_value::boolean FROM pg_options_to_table(v.reloptions) AS o
                WHERE o.option_name = 'security_invoker'),
            false
        )
    ORDER BY 1"""

_USERS: LiteralString = """
    SELECT a.attname, u.name
    FROM pg_attribute AS a
    CROSS JOIN LATERAL (
        SELECT format('view %%s', w.ev_class::regclass)
        FROM pg_depend AS d JOIN pg_rewrite AS w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
            AND w.ev_class <> a.attrelid
        UNION
        SELECT format('policy %%s', p.polname)
        FROM pg_depend AS d JOIN pg_policy AS p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
        UNION
        SELECT format('column %%s', g.attname)
        FROM pg_depend AS d JOIN pg_attrdef AS e ON d.classid = 'pg_attrdef'::regclass AND e.oid = d.objid
        JOIN pg_attribute AS g ON g.attrelid = e.adrelid AND g.attnum = e.adnum AND g.attgenerated <> ''
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
            AND e.adrelid = a.attrelid AND g.attnum <> a.attnum
        UNION
        SELECT format('trigger %%s', t.tgname)
        FROM pg_depend AS d JOIN pg_trigger AS t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
            AND NOT t.tgisinternal
        UNION
        SELECT 'its partitioning'
        FROM pg_partitioned_table AS p WHERE p.partrelid = a.attrelid AND a.attnum = ANY (p.partattrs::int2[])
    ) AS u (name)
    WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum, u.name"""
