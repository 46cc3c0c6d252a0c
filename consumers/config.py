"""The consumers' settings: one frozen tree from the environment (`CONSUMERS_…`) or a `.env` file, checked at once.

Secrets are `SecretStr`, so that no log line and no error message can print them. Nothing here connects to anything.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from consumers.errors import SettingsError
from consumers.tenants import DEFAULT_POOL

PREFIX = "CONSUMERS_"
_BRIEF_LOCK_S = 0.3
"""An ordinary transaction of another worker's is over by then, and others' rows are still there within a second."""
_BRIEF_STATEMENT_S = 10.0
"""No statement of an ordinary batch takes nearly as long, on a slow machine either."""
POOL_NAME = re.compile(r"^[A-Za-z0-9._-]{1,100}$")


def _dsn(secret: SecretStr) -> SecretStr:
    """libpq's own message may quote the DSN, so it is not passed on."""
    try:
        user = conninfo_to_dict(secret.get_secret_value()).get("user")
    except psycopg.Error:
        raise ValueError("is no PostgreSQL connection string (postgresql://user:password@host/database)") from None
    if not user:
        raise ValueError("names no user; the role decides which rows may be written")
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


def _masked(options: dict[str, Any]) -> dict[str, str]:
    return dict.fromkeys(options, "**********")


Dsn = Annotated[SecretStr, AfterValidator(_dsn)]
Seconds = Annotated[float, Field(gt=0)]
KafkaOptions = Annotated[
    dict[str, str | int | float | bool],
    NoDecode,
    BeforeValidator(_json_object),
    PlainSerializer(_masked),
    Field(repr=False),  # sasl.password is among them
]


class Settings(BaseSettings):
    """Every setting with its unit. Made by `load`, which turns faults into `SettingsError`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", frozen=True, extra="ignore", str_strip_whitespace=True
    )

    target_dsn: Dsn
    """What a worker logs in with: the applier, a role that row-level security binds."""
    setup_dsn: Dsn | None = None
    """The owner of the target's tables, for whatever alters them or the mapping; None: the role of target_dsn."""
    source_dsn: Dsn | None = None
    """For `compare` and `map suggest`: a role of the source that may SELECT what is replicated; it never writes."""
    source_schema: Annotated[str, Field(pattern=r'^[^"]{1,63}$')] = "public"
    source_view: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_$]{0,62}$")] = "vw_conversations_analytics_final"
    """As REPLICATOR_VIEW has it."""
    target_schema: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")] = "public"

    kafka_bootstrap_servers: Annotated[str, Field(min_length=1)]
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = "inbox-replicator"
    pool: Annotated[str, Field(pattern=POOL_NAME.pattern)] = DEFAULT_POOL
    """The set of tenants that is served: the consumer group is named after it."""
    kafka_options: KafkaOptions = {}
    """Any librdkafka option (TLS, SASL), as a JSON object."""

    batch_messages: Annotated[int, Field(ge=1, le=100_000)] = 5000
    """At the most, of few inboxes."""
    batch_wait_ms: Annotated[int, Field(ge=0, le=60_000)] = 2
    """How long an incomplete batch waits for more, unless one is under way: then it waits for its end."""
    connections: Annotated[int, Field(ge=1, le=100)] = 4
    """To the target, for each worker."""

    connect_timeout_s: Annotated[int, Field(ge=2, le=300)] = 10
    """libpq takes whole seconds, and two at the least."""
    statement_timeout_s: Seconds = 60
    lock_timeout_s: Seconds = 5
    stop_timeout_s: Seconds = 8
    """After SIGTERM: how long a batch may take to finish."""
    stub_patience_s: Seconds = 30
    """How long a stub waits for its row before the row is asked for."""
    mapping_ttl_s: Seconds = 30
    """How old the known mapping of inboxes to tenants may be, if no notice came."""

    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 9188
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"

    @property
    def brief_lock_timeout_s(self) -> float:
        """For a lock that all tenants of a worker would wait for: of its batches, and of its loop."""
        return min(_BRIEF_LOCK_S, self.lock_timeout_s)

    @property
    def brief_statement_timeout_s(self) -> float:
        """For a statement that they would wait for."""
        return min(_BRIEF_STATEMENT_S, self.statement_timeout_s)

    @property
    def applier(self) -> str:
        """The role of the workers."""
        return str(conninfo_to_dict(self.target_dsn.get_secret_value())["user"])

    @property
    def owner_dsn(self) -> SecretStr:
        """What changes the target's schema and mapping."""
        return self.setup_dsn or self.target_dsn


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
