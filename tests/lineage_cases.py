"""A little help desk, and SELECTs over it with what their lineage must say: `tests/golden/lineage.txt`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from replicator.lineage import BaseTable, Catalog, Name

SCHEMA = """
CREATE TABLE conversations (id integer PRIMARY KEY, inbox_id integer NOT NULL, contact_id bigint, assignee_id integer,
    status integer NOT NULL, uuid uuid NOT NULL UNIQUE, created_at timestamp NOT NULL, waiting_since timestamp,
    updated_at timestamp NOT NULL);
CREATE TABLE messages (id integer PRIMARY KEY, conversation_id integer NOT NULL, inbox_id integer NOT NULL,
    sender_type varchar, sender_id bigint, content text, private boolean NOT NULL, created_at timestamp NOT NULL,
    tags text[]);
CREATE TABLE contacts (id integer PRIMARY KEY, name varchar, email varchar, phone_number varchar);
CREATE TABLE inboxes (id integer PRIMARY KEY, name varchar NOT NULL, account_id integer NOT NULL);
CREATE TABLE users (id integer PRIMARY KEY, name varchar NOT NULL, email varchar);
CREATE TABLE csat (id bigint PRIMARY KEY, conversation_id bigint NOT NULL, rating integer NOT NULL, contact_id bigint);
CREATE TABLE taggings (tag_id integer, taggable_type varchar, taggable_id integer, id integer PRIMARY KEY);
CREATE TABLE tags (id integer PRIMARY KEY, name varchar);
CREATE TABLE visits (tenant_id integer, number integer, contact_id bigint, at timestamp,
    PRIMARY KEY (tenant_id, number));
CREATE TABLE steps (id integer PRIMARY KEY, tenant_id integer NOT NULL, number integer NOT NULL, kind text);
CREATE FUNCTION norm(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower(trim($1))'"""


def _table(columns: str, key: str = "id", unique: tuple[tuple[str, ...], ...] = ()) -> BaseTable:
    """`name:type` columns; a name that ends with `!` is NOT NULL."""
    pairs = [column.split(":") for column in columns.split()]
    long = {"timestamp": "timestamp without time zone", "varchar": "character varying"}
    return BaseTable(
        columns={name.rstrip("!"): long.get(kind, kind) for name, kind in pairs},
        key=tuple(key.split()),
        unique=unique,
        not_null=frozenset(name.rstrip("!") for name, _ in pairs if name.endswith("!")),
    )


TABLES: dict[Name, BaseTable] = {
    ("public", "conversations"): _table(
        "id!:integer inbox_id!:integer contact_id:bigint assignee_id:integer status!:integer uuid!:uuid"
        " created_at!:timestamp waiting_since:timestamp updated_at!:timestamp",
        unique=(("uuid",),),
    ),
    ("public", "messages"): _table(
        "id!:integer conversation_id!:integer inbox_id!:integer sender_type:varchar sender_id:bigint content:text"
        " private!:boolean created_at!:timestamp tags:text[]"
    ),
    ("public", "contacts"): _table("id!:integer name:varchar email:varchar phone_number:varchar"),
    ("public", "inboxes"): _table("id!:integer name!:varchar account_id!:integer"),
    ("public", "users"): _table("id!:integer name!:varchar email:varchar"),
    ("public", "csat"): _table("id!:bigint conversation_id!:bigint rating!:integer contact_id:bigint"),
    ("public", "taggings"): _table("tag_id:integer taggable_type:varchar taggable_id:integer id!:integer"),
    ("public", "tags"): _table("id!:integer name:varchar"),
    ("public", "visits"): _table(
        "tenant_id!:integer number!:integer contact_id:bigint at:timestamp", "tenant_id number"
    ),
    ("public", "steps"): _table("id!:integer tenant_id!:integer number!:integer kind:text"),
}


def catalog(views: dict[str, str]) -> Catalog:
    """The help desk's catalogue with some views."""
    named = {("public", name): definition for name, definition in views.items()}
    return Catalog(tables=TABLES, views=named, row_functions={"norm": "its body"})


@dataclass(frozen=True, kw_only=True)
class Case:
    """A SELECT and what must be said of it."""

    says: str
    select: str
    key: tuple[str, ...] = ("id",)
    views: dict[str, str] = field(default_factory=dict)
    used: dict[str, set[str]] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    clock: dict[str, str | None] = field(default_factory=dict)
    unstable: tuple[str, ...] = ()


def cases() -> list[Case]:
    """The cases of the golden file."""
    said = (Path(__file__).parent / "golden" / "lineage.txt").read_text().replace("\n  ", " ")
    return [_case(part.split("\n# ")[0].splitlines()) for part in re.split(r"^## (?=\S)", said, flags=re.MULTILINE)[1:]]


def _case(said: list[str]) -> Case:
    says, *lines = said
    select = next(line for line in lines if line.startswith(("SELECT ", "WITH ")))
    clock = {name: None if expression == "none" else expression for name, expression in _named(lines, "clock ")}
    return Case(
        says=says,
        select=select,
        key=tuple(next(iter(_after(lines, "key ")), "id").split()),
        views=dict(_named(lines, "view ")),
        used={table: set(columns.split()) for table, columns in _named(lines, "used ")},
        paths=tuple(_after(lines, "- ")),
        refused=tuple(_after(lines, "! ")),
        clock=clock,
        unstable=tuple(" ".join(_after(lines, "unstable ")).split()),
    )


def _after(lines: list[str], mark: str) -> list[str]:
    return [line.removeprefix(mark) for line in lines if line.startswith(mark)]


def _named(lines: list[str], mark: str) -> list[tuple[str, str]]:
    pairs = [line.split(":", 1) for line in _after(lines, mark)]
    return [(name, rest.strip()) for name, rest in pairs]
