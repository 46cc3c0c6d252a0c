"""What librdkafka refuses of the operator's options is said by the setting's name, whichever client is made first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from consumers import lag, schemas
from consumers.config import Settings, load
from consumers.errors import SettingsError
from consumers.inbound import Inbound
from consumers.requests import Requests
from consumers.schemas import Schemas
from consumers.topic import TopicShape, TopicWatch

DSN, KAFKA = "postgresql://applier@127.0.0.1:1/nowhere", "127.0.0.1:1"


def inbound(settings: Settings) -> Inbound:
    return Inbound(settings, lambda partitions: {}, lambda partitions: None, lambda partitions: None)


def settings_with(option: str) -> Settings:
    return load(target_dsn=DSN, kafka_bootstrap_servers=KAFKA, kafka_options={option: 1})


@pytest.mark.parametrize("make", [Schemas, schemas.latest, Requests, lag.ends, TopicShape, TopicWatch, inbound])
def test_an_option_that_is_refused_is_named(make: Callable[[Settings], object]) -> None:
    with pytest.raises(SettingsError, match=r"^CONSUMERS_KAFKA_OPTIONS: .*no\.such\.option"):
        make(settings_with("no.such.option"))


def test_an_option_that_takes_a_function_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^CONSUMERS_KAFKA_OPTIONS: .*error_cb"):
        Schemas(settings_with("error_cb"))


def test_a_worker_ends_with_the_sentence() -> None:
    given = {
        "CONSUMERS_TARGET_DSN": DSN,
        "CONSUMERS_KAFKA_BOOTSTRAP_SERVERS": KAFKA,
        "CONSUMERS_KAFKA_OPTIONS": '{"no.such.option": 1}',
    }
    done = subprocess.run(
        [sys.executable, "-m", "consumers", "run"],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("CONSUMERS_KAFKA_OPTIONS: ")
    assert "Traceback" not in done.stderr
