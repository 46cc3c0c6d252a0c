"""What was found on the source about the analytics view, as plain data: `view_inspection` reads it.

Pure data: knows neither where a fact comes from nor what is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewColumn:
    """A column of a view, with SQL's name of its type."""

    name: str
    type_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewFacts:
    """A view, or whatever else has the name of one."""

    schema: str
    name: str
    kind: str
    """`pg_class.relkind`: v view, m materialized view, r table, …"""
    owner: str
    owner_reads_conversations: bool
    """So that the view may, whose rights are its owner's."""
    owned: bool
    """Our role may replace it."""
    readable: bool
    takes_writes: bool
    """Rows can be written through it: of itself, or by rules."""
    returned_by: tuple[str, ...]
    """Functions that return, or take, its rows as they are."""
    options: tuple[str, ...]
    """`pg_class.reloptions`, such as security_barrier=true."""
    columns: tuple[ViewColumn, ...]
    definition: str
    """As pg_get_viewdef prints it, names of the source schema without it; empty if it is no view."""

    @property
    def reads_as_invoker(self) -> bool:
        """It reads with the rights of whoever reads it, not of its owner."""
        return any(o.startswith("security_invoker=") and o != "security_invoker=false" for o in self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyticsViewFacts:
    """The source as the analytics view finds it."""

    role: str
    may_create: bool
    """Our role has CREATE on the schema."""
    absent: tuple[str, ...]
    """Tables that our definition reads and that do not exist."""
    unreadable: tuple[str, ...]
    """Tables that it reads and our role may not."""
    existing: Mapping[str, ViewFacts]
    """What has the name of one of our views, by that name."""
    nested: Mapping[tuple[str, str], ViewFacts]
    """The views among these and all views that they read, by schema and name."""
    reference: Mapping[str, ViewFacts] | None
    """Our views, as this server understands them, if that was asked for."""
