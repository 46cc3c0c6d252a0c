"""When a worker looks for stubs, and asks for their rows: by a clock of the test's, of a target that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from consumers import requests, upsert
from consumers.apply import Result
from consumers.config import Settings, load
from consumers.requests import Requests
from consumers.target import Outcome
from consumers.tenants import Owner
from consumers.worker import Worker
from replicator import KeysRequest, Request
from replicator.runtime import Stop


@pytest.fixture
def settings() -> Settings:
    return load(
        target_dsn="postgresql://applier@127.0.0.1:1/nowhere",
        kafka_bootstrap_servers="127.0.0.1:1",
        kafka_options={"log_level": 0},
        http_port=0,
    )


class Clock:
    """And who was looked for: of tenant 900 one stub is never filled."""

    def __init__(self, asking: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.asking, self.looked = 1_000.0, asking, list[int]()
        self._owners = {inbox: Owner(inbox, "", True) for inbox in range(1_000)}
        monkeypatch.setattr(requests, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(upsert, "stubs", lambda _: "")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield

    def execute(self, _statement: object, given: Any) -> Any:
        if isinstance(given, list):
            self.looked.append(int(given[0]))
            return None
        return SimpleNamespace(fetchall=lambda: [(7, None)] if given["tenant"] == 900 else [])

    def look(self, after_s: float) -> list[int]:
        """Who is looked at by the next look."""
        self.now += after_s
        self.looked.clear()
        relations = {"t": SimpleNamespace(name="t")}
        self.asking.ask_for_stubs(cast(Any, self), cast(Any, relations), self._owners, self._owners)
        return self.looked[:]


def test_a_tenant_that_has_stubs_does_not_wait_until_it_is_its_turn(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among a thousand that is a minute and a half away, and to ask for them took two turns."""
    asking = Requests(settings)
    asked: list[tuple[float, Request]] = []
    clock = Clock(asking, monkeypatch)
    monkeypatch.setattr(asking, "send", lambda request: asked.append((clock.now, request)))
    begun = clock.now
    asking.expect_stubs(900)
    asking.expect_stubs(901)
    assert clock.look(0) == [*range(25)]
    assert clock.look(6) == [*range(25, 50), 900, 901], "not before what is on its way may have filled them"
    assert clock.look(2) == [*range(50, 75)]
    asking.expect_stubs(900)
    assert clock.look(6) == [*range(75, 100), 900], "others are made while it waits"
    assert clock.look(21) == [*range(100, 125)]
    assert clock.look(2) == [*range(125, 150), 900]
    assert asked == [(begun + 37, KeysRequest(table="t", inbox=900, keys=((7,),)))]
    assert clock.look(31) == [*range(150, 175)]
    assert clock.look(30) == [*range(175, 200), 900], "and again, ever more seldom"
    assert len(asked) == 2


def test_of_many_that_have_stubs_some_are_looked_at_beside_those_whose_turn_it_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Requests(settings)
    clock = Clock(asking, monkeypatch)
    for tenant in (500, *range(600, 700)):
        clock.now += 0.001
        asking.expect_stubs(tenant)
    asking.expect_stubs(2_000)
    assert clock.look(6) == [*range(25), 500, *range(600, 609)]
    assert clock.look(2) == [*range(25, 50), *range(609, 619)]
    assert 2_000 not in asking._expected, "another worker's"


@pytest.mark.parametrize(("stubs", "soon"), [(0, []), (3, [900])])
def test_who_has_made_stubs_is_known_by_what_was_applied(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stubs: int, soon: list[int]
) -> None:
    loop = Worker(settings, Stop())
    clock = Clock(loop._requests, monkeypatch)
    outcome, result = Outcome(stubs=stubs), Result(900)
    result.outcome.add(outcome)
    loop._harvest.take(result)
    assert clock.look(6) == [*range(25), *soon]
