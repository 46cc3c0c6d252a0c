"""Judges the source's server: connection, role, settings, slot.

Pure: facts and settings in, findings out. Every rule gives exactly one finding, `ok` where all is well.
"""

from __future__ import annotations

import re
from typing import Final

from replicator.config import Settings
from replicator.facts import ServerFacts, SlotFacts, SourceFacts
from replicator.findings import OPERATOR, Finding, note, ok, refusal, warning
from replicator.remedies import quoted, script

OLDEST_VERSION: Final = 140_000
"""The first whose pgoutput takes `messages`: watermarks and heartbeats reach us by it."""
SHORTEST_TIMEOUT_MS: Final = 10_000
"""Feedback goes out every 5 s; a server that waits for less than two of them cuts a stream that is well."""
LONGEST_READ_MS: Final = 60_000
"""Our transactions end within this time, and our sessions are idle no longer than it."""
GIB: Final = 1 << 30
DEFAULT_SLOT: Final = str(Settings.model_fields["slot"].default)
"""Slots of replicators are mostly called so, or by it and a suffix."""


def judge_server(facts: SourceFacts, settings: Settings) -> list[Finding]:
    """In the order in which an operator would mend them."""
    return [
        _version(facts),
        _primary(facts),
        _session(facts),
        _walsender(facts),
        _role(facts),
        _wal_level(facts),
        _capacity(facts),
        _slot(facts, settings),
        _idle_slots(facts),
        _keep_size(facts, settings),
        _synchronous(facts.server, settings),
        _sender_timeout(facts),
        _time_limits(facts),
        _encoding(facts),
    ]


def judge_polled_server(facts: SourceFacts) -> list[Finding]:
    """What polling needs of it too."""
    return [_version(facts), _session(facts), _time_limits(facts), _encoding(facts)]


def _version(facts: SourceFacts) -> Finding:
    version = facts.server.version
    text = f"PostgreSQL {version // 10_000}.{version % 10_000}"
    if version < OLDEST_VERSION:
        return refusal("version", text, "PostgreSQL 14 or later is needed", "upgrade the source")
    return ok("version", text, "recent enough")


def _primary(facts: SourceFacts) -> Finding:
    if facts.server.in_recovery:
        return refusal(
            "primary",
            facts.server.database,
            "this server is a standby; the replicator writes markers into the WAL, which only a primary takes",
            "let REPLICATOR_SOURCE_DSN name the primary",
            whose=OPERATOR,
        )
    return ok("primary", facts.server.database, "a primary")


def _session(facts: SourceFacts) -> Finding:
    if not facts.session.same_backend:
        return refusal(
            "session",
            "connection",
            "a pooler gives every statement another server session, so settings and locks do not last",
            "let REPLICATOR_SOURCE_DSN name the server itself",
            whose=OPERATOR,
        )
    if not facts.session.direct:
        return warning(
            "session",
            "connection",
            "something stands between here and the server (a pooler in session mode, a proxy): it may cut or hold "
            "connections, and statements can't be cancelled surely",
            "let REPLICATOR_SOURCE_DSN name the server itself",
            whose=OPERATOR,
        )
    return ok("session", "connection", "direct, and settings last")


def _walsender(facts: SourceFacts) -> Finding:
    session = facts.session
    pooled = not (session.direct and session.same_backend)
    if session.walsender_error is not None:
        # Some failures pass by themselves (all walsenders in use, a restart): the run waits those out.
        lasting = pooled or not _may_replicate(facts) or "startup parameter" in session.walsender_error
        remedy = (
            "let REPLICATOR_SOURCE_DSN name the server itself" if pooled else "see the role and the free walsenders"
        )
        make = refusal if lasting else warning
        return make("walsender", "connection", f"a replication connection failed: {session.walsender_error}", remedy)
    if not session.same_system:
        return refusal(
            "walsender",
            "connection",
            "replication connections reach another server or database than ordinary ones do",
            "let REPLICATOR_SOURCE_DSN name one server, not a balancer",
            whose=OPERATOR,
        )
    return ok("walsender", "connection", "replication connections work")


def _may_replicate(facts: SourceFacts) -> bool:
    return facts.role.superuser or facts.role.replication


def _role(facts: SourceFacts) -> Finding:
    name = facts.role.name
    if not _may_replicate(facts):
        return refusal(
            "role",
            name,
            "the role may not replicate (managed services give this right by a role of their own)",
            script(f"ALTER ROLE {quoted(name)} REPLICATION"),
        )
    if facts.role.superuser:
        return note("role", name, "a superuser: REPLICATION and SELECT on the captured tables would do")
    return ok("role", name, "may replicate")


def _wal_level(facts: SourceFacts) -> Finding:
    if (level := facts.server.wal_level) != "logical":
        return refusal(
            "wal_level",
            level,
            "the WAL holds no row changes; the setting takes effect at the server's next restart",
            script("ALTER SYSTEM SET wal_level = 'logical'") + " -- then restart the server",
        )
    return ok("wal_level", level, "the WAL holds row changes")


def _capacity(facts: SourceFacts) -> Finding:
    server = facts.server
    subject = (
        f"slots {server.used_slots}/{server.max_slots}, walsenders {server.used_walsenders}/{server.max_walsenders}"
    )
    if facts.slot is None and server.used_slots >= server.max_slots:
        return refusal(
            "capacity",
            subject,
            "no replication slot is free",
            f"drop a slot that nobody uses, or ALTER SYSTEM SET max_replication_slots = {server.max_slots + 5}; "
            "-- then restart the server",
        )
    running = facts.slot is not None and facts.slot.active_pid is not None
    if not running and server.used_walsenders >= server.max_walsenders:
        return warning(
            "capacity",
            subject,
            "no walsender is free; the replicator waits for one",
            f"ALTER SYSTEM SET max_wal_senders = {server.max_walsenders + 5}; -- then restart the server",
        )
    return ok("capacity", subject, "one of each is free or ours")


def _slot(facts: SourceFacts, settings: Settings) -> Finding:
    name, slot = settings.slot, facts.slot
    if slot is None:
        return ok("slot", name, "does not exist yet; the first run makes it")
    if fault := _foreign(slot, facts.server):
        return refusal(
            "slot", name, f"the slot of this name {fault}", "set REPLICATOR_SLOT to another name", whose=OPERATOR
        )
    if slot.invalidated is not None:
        return warning(
            "slot",
            name,
            f"the server gave the slot up ({slot.invalidated}); the next run makes it anew, begins a new epoch "
            "and reads everything again",
            "raise max_slot_wal_keep_size, or find out what kept the replicator away",
        )
    if slot.active_pid is not None and slot.holder not in (name, None):
        return warning(
            "slot",
            name,
            f"held by PID {slot.active_pid} ({slot.holder}), which is not this replicator",
            script(f"SELECT pg_terminate_backend({slot.active_pid})"),
        )
    held = "" if slot.held_bytes is None else f", {slot.held_bytes / GIB:.2f} GiB of WAL held"
    if slot.wal_status in ("unreserved", "extended"):
        return warning(
            "slot",
            name,
            f"its WAL is {slot.wal_status}{held}: beyond max_wal_size, and soon removed if there is a limit",
            "start the replicator, or find out what holds it up (`replicator status`)",
            whose=OPERATOR,
        )
    state = "idle" if slot.active_pid is None else f"held by PID {slot.active_pid}"
    return ok("slot", name, f"{state}{held}")


def _idle_slots(facts: SourceFacts) -> Finding:
    """A subscription that is switched off, or another's connector, has such a slot too: only ours are to be dropped."""
    ours = [name for name in facts.idle_slots if name.startswith(DEFAULT_SLOT)]
    if ours:
        return warning(
            "idle_slots",
            ", ".join(ours),
            "nobody reads it, and it keeps WAL for ever: left by a replicator that was taken away, or by another "
            "REPLICATOR_SLOT",
            script(*(f"SELECT pg_drop_replication_slot('{name}')" for name in ours))
            + "\n-- unless it is of another replicator that is only stopped",
        )
    if facts.idle_slots:
        return note(
            "idle_slots",
            ", ".join(facts.idle_slots),
            "nobody reads it at the moment, and it keeps WAL: if it was a REPLICATOR_SLOT once, drop it",
        )
    return ok("idle_slots", facts.server.database, "no other slot like ours waits for a reader")


def _foreign(slot: SlotFacts, server: ServerFacts) -> str | None:
    """What makes a slot another's."""
    if slot.kind != "logical":
        return f"is {slot.kind}"
    if slot.plugin != "pgoutput":
        return f"uses the plugin {slot.plugin}"
    if slot.database != server.database:
        return f"belongs to the database {slot.database}"
    return "is temporary" if slot.temporary else None


def _keep_size(facts: SourceFacts, settings: Settings) -> Finding:
    size = facts.server.keep_size_mb
    if size < 0:
        return warning(
            "wal_budget",
            "max_slot_wal_keep_size",
            f"no limit: while the replicator is away the slot {settings.slot} can fill the source's disk",
            script("ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'", "SELECT pg_reload_conf()")
            + " -- some days of WAL, well below the free disk",
        )
    return ok("wal_budget", "max_slot_wal_keep_size", f"{size} MB; beyond it the slot is lost and all is read again")


def _synchronous(server: ServerFacts, settings: Settings) -> Finding:
    if not waits_for(server.synchronous_standbys, settings.slot):
        return ok("synchronous", "synchronous_standby_names", "the source's commits do not wait for the replicator")
    return refusal(
        "synchronous",
        "synchronous_standby_names",
        f"{server.synchronous_standbys!r} matches {settings.slot}: the source's commits would wait for the replicator",
        "name the standbys one by one in synchronous_standby_names, without * and without "
        f"{settings.slot}; then SELECT pg_reload_conf();",
    )


def waits_for(standbys: str, application: str) -> bool:
    """Whether `synchronous_standby_names` matches an application name, as PostgreSQL compares: by any case, or *."""
    inner = re.sub(r"^\s*(?:(?:first|any)\s+)?\d+\s*\((.*)\)\s*$", r"\1", standbys, flags=re.IGNORECASE | re.DOTALL)
    names = [name.replace('""', '"') for name in re.findall(r'"((?:[^"]|"")*)"', inner)]
    names += re.sub(r'"(?:[^"]|"")*"', "", inner).replace(",", " ").split()
    return any(name == "*" or name.lower() == application.lower() for name in names)


def _sender_timeout(facts: SourceFacts) -> Finding:
    limit, subject = facts.server.wal_sender_timeout_ms, "wal_sender_timeout"
    remedy = script(f"ALTER ROLE {quoted(facts.role.name)} SET wal_sender_timeout = '60s'")
    if limit == 0:
        return warning(
            "sender_timeout", subject, "0: after a cut line the slot stays held until TCP itself gives up", remedy
        )
    if limit < SHORTEST_TIMEOUT_MS:
        return warning(
            "sender_timeout", subject, f"{limit} ms: the stream is cut although the replicator is well", remedy
        )
    return ok("sender_timeout", subject, f"{limit / 1000:g} s")


def _time_limits(facts: SourceFacts) -> Finding:
    """Only the limits that our sessions do not set for themselves."""
    limits = {
        "idle_session_timeout": facts.server.idle_session_timeout_ms,
        "transaction_timeout": facts.server.transaction_timeout_ms,
    }
    short = {name: limit for name, limit in limits.items() if 0 < limit < LONGEST_READ_MS}
    if short:
        role = quoted(facts.role.name)
        listed = ", ".join(f"{name} = {limit} ms" for name, limit in short.items())
        return warning(
            "time_limits",
            facts.role.name,
            f"{listed}: the replicator's sessions are cut again and again",
            script(*(f"ALTER ROLE {role} SET {name} = 0" for name in short)),
        )
    return ok("time_limits", facts.role.name, "no time limit that would cut our sessions")


def _encoding(facts: SourceFacts) -> Finding:
    encoding = facts.server.encoding
    if encoding == "SQL_ASCII":
        return warning(
            "encoding",
            encoding,
            "the server does not check text: bytes that are not UTF-8 would end a run",
            "find such rows before the first run, or move the database to UTF8",
        )
    if encoding != "UTF8":
        return note("encoding", encoding, "the server converts text to UTF-8 for us")
    return ok("encoding", encoding, "as the events have it")
