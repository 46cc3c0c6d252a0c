"""A replay that waits for its tenant."""

from __future__ import annotations

from types import SimpleNamespace

import psycopg
import pytest

from consumers.replay import _Replaying


def test_an_interruption_in_the_moment_of_a_lock_time_out_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """psycopg cancels the statement, and tells what that comes to instead."""

    def execute(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise psycopg.errors.LockNotAvailable("canceling statement due to lock timeout")  # noqa: B904  # as psycopg

    replaying = object.__new__(_Replaying)
    replaying._shadow = SimpleNamespace(connection=SimpleNamespace(execute=execute))  # type: ignore[assignment]
    replaying._wish = SimpleNamespace(tenant=1)  # type: ignore[assignment]
    monkeypatch.setattr(replaying, "_reached", dict)
    monkeypatch.setattr(replaying, "_read_to", lambda *_: True)
    with pytest.raises(KeyboardInterrupt):
        replaying._hold()
