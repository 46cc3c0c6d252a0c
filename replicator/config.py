"""The replicator's settings: one frozen tree from the environment (`REPLICATOR_…`) or a `.env` file, checked at once.

Secrets are `SecretStr`, so that no log line and no error message can print them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from replicator.errors import SettingsError
from replicator.relations import is_taken

PREFIX = "REPLICATOR_"


def _dsn(secret: SecretStr) -> SecretStr:
    """libpq's own message may quote the DSN, so it is not passed on."""
    try:
        conninfo_to_dict(secret.get_secret_value())
    except psycopg.Error:
        raise ValueError("is no PostgreSQL connection string (postgresql://user:password@host/database)") from None
    return secret


def _json_object(given: Any) -> Any:
    """A JSON object as text; parsed here, so that a fault in it is reported together with all the others."""
    if not isinstance(given, str):
        return given
    try:
        parsed = json.loads(given or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error.msg} at character {error.pos})") from None
    if not isinstance(parsed, dict):
        raise ValueError('is no JSON object; for instance {"security.protocol": "SSL"}')  # noqa: TRY004 # pydantic's
    return parsed


def _json_list(given: Any) -> Any:
    """A JSON list as text, as above."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given or "[]")
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error.msg} at character {error.pos})") from None


def _masked(options: dict[str, Any]) -> dict[str, str]:
    return dict.fromkeys(options, "**********")


_NAME: Final = r"^[a-z_][a-z0-9_]{0,62}$"


def _free(name: str) -> str:
    """Two relations of one name would write each other's rows."""
    if is_taken(name):
        raise ValueError("is the name of a table that every target has; give the relation another one")
    return name


class OwnRelation(BaseModel):
    """A derived relation of the operator's own: a SELECT over the source, its key and its inbox."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    select: str
    """Run with the source's schema as its search path; at most one row of a key is published at an inbox."""
    key: Annotated[str, Field(pattern=_NAME)]
    """An integer column of the SELECT."""
    inbox: Annotated[str, Field(pattern=_NAME)]
    """The column that holds the inbox id."""
    excluded: tuple[str, ...] = ()
    """Columns that are not published."""
    newest: str = ""
    """Of several rows of one key at one inbox the one where this integer column is greatest is taken."""
    paths: tuple[OwnPath, ...] = ()
    """How base rows lead to keys where the SELECT alone can't tell."""


class OwnPath(BaseModel):
    """From rows of one base table to keys of a derived relation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: Annotated[str, Field(pattern=_NAME)]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    """Where the path starts."""
    lookup: str
    """A SELECT of keys with one `%s` for each column, an array of its values; `%%` is a percent sign."""


OwnPaths = Annotated[tuple[OwnPath, ...], NoDecode, BeforeValidator(_json_list)]
OwnRelations = Annotated[
    dict[Annotated[str, Field(pattern=_NAME), AfterValidator(_free)], OwnRelation],
    NoDecode,
    BeforeValidator(_json_object),
]
Dsn = Annotated[SecretStr, AfterValidator(_dsn)]
KafkaOptions = Annotated[
    dict[str, str | int | float | bool],
    NoDecode,
    BeforeValidator(_json_object),
    PlainSerializer(_masked),
    Field(repr=False),  # sasl.password is among them
]


class Settings(BaseSettings):
    """Every setting with its unit. Raises through `load` only."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", frozen=True, extra="ignore", str_strip_whitespace=True
    )

    source_dsn: Dsn
    """The source database; the role needs REPLICATION and SELECT on the captured tables."""
    source_schema: str = "public"
    view: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_$]{0,62})?$")] = "vw_conversations_analytics_final"
    """The analytics view, in the source schema; empty: there is none, and none is made."""
    view_paths: OwnPaths = ()
    """How base rows lead to its keys where its definition alone can't tell, as a JSON list."""
    slot: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,63}$")] = "inbox_replicator"
    publication: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")] = "inbox_replicator"
    accept_default_identity: bool = False
    """Run although moves between inboxes can't be seen: `check` says what that means."""

    kafka_bootstrap_servers: str
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = "inbox-replicator"
    partitions: Annotated[int, Field(ge=1, le=1000)] = 24
    """Of the changes topic, fixed when it is made."""
    replication_factor: Annotated[int, Field(ge=-1)] = -1
    """Of the topics; -1: the broker's default."""
    retention_days: Annotated[float, Field(gt=0)] = 14
    max_message_bytes: Annotated[int, Field(ge=1 << 20, le=256 << 20)] = 16 << 20
    kafka_options: KafkaOptions = {}
    """Any librdkafka option (TLS, SASL), as a JSON object."""

    derived: OwnRelations = {}
    """Derived relations beside the shipped ones, by the name of their table in the target, as a JSON object."""
    fan_out_keys: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Keys of a derived relation that one change may concern before they are read in the background..."""
    fan_out_keys_per_second: Annotated[int, Field(ge=1)] = 2_000
    """...at this pace."""
    dirty_keys: Annotated[int, Field(ge=1_000)] = 100_000
    """Keys that wait to be read, at the most; beyond that a relation is read as a whole."""
    fingerprints: Annotated[int, Field(ge=0)] = 50_000
    """Rows of which it is remembered what they were, so that a change that matters to nobody is not followed."""

    backfill_rows_per_second: Annotated[int, Field(ge=1)] = 20_000
    backfill_chunk_rows: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    backfill_chunk_bytes: Annotated[int, Field(ge=1 << 16)] = 8 << 20

    mode: Literal["auto", "stream", "poll"] = "auto"
    """auto: the source is streamed where that is possible, and polled as long as it is not."""
    wal_budget_bytes: Annotated[int, Field(ge=1 << 20)] = 8 << 30
    """WAL that our slot may keep on the source; beyond that it is dropped, and the source polled for a while."""
    stream_retry_s: Annotated[float, Field(gt=0)] = 60
    """How long the source is polled at least before the stream is tried again; doubled each time that this fails."""
    poll_tables: bool = False
    """While polling, read the tables too, not only the view; the role needs SELECT on them."""
    poll_interval_s: Annotated[float, Field(gt=0)] = 5
    poll_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of the time that polling may spend in queries on the source."""
    poll_clock_margin_s: Annotated[float, Field(ge=0)] = 5
    """How far apart the clocks may be that write `updated_at`."""
    digest_keys_per_second: Annotated[int, Field(ge=1)] = 2_000
    """The pace of the rolling pass that finds what `updated_at` does not show."""
    digest_entries: Annotated[int, Field(ge=1_000)] = 1_000_000
    """Rows of one relation of which it is remembered what was published last; beyond that, neighbours together."""
    verify: bool = False
    """Run the rolling pass beside the stream too, as a proof that it misses nothing."""

    connect_timeout_s: Annotated[int, Field(ge=1)] = 10
    statement_timeout_s: Annotated[float, Field(gt=0)] = 30
    lock_timeout_s: Annotated[float, Field(gt=0)] = 10
    heartbeat_s: Annotated[float, Field(gt=0)] = 2
    """How often every partition hears up to when it is complete."""

    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 9187
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"


def load(**overrides: Any) -> Settings:
    """The settings, or SettingsError with one line for each fault, named as the operator wrote it."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        faults = {
            f"{PREFIX}{str(fault['loc'][0]).upper()}{_within(fault['loc'][1:])}": fault["msg"]
            for fault in error.errors(include_input=False, include_url=False)
        }
        raise SettingsError("\n".join(f"{name}: {fault}" for name, fault in faults.items())) from None


def _within(location: tuple[int | str, ...]) -> str:
    """The option of a JSON object that is wrong; what follows it are the alternatives of its type."""
    return f" ({location[0]})" if location else ""
