"""The thread that proves what the stream has published, without a source."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from replicator.errors import SourceUnavailable
from replicator.readings import Errand
from replicator.verifier import Verifier


def test_a_relation_that_can_not_be_read_does_not_keep_others_from_being_verified() -> None:
    asked, can_read = list[Errand](), [True, False]

    def errand(relation: str, keys: Any) -> Errand:
        asked.append(Errand(relation, keys))
        return asked[0]

    agenda = SimpleNamespace(errand=errand, can_read=lambda _: can_read.pop(0))
    verifier = Verifier(
        *cast(Any, (SimpleNamespace(digest_keys_per_second=1), SimpleNamespace(run=lambda call: call()), agenda)),
        *cast(Any, (None, None, None)),
        born=0,
    )
    with pytest.raises(SourceUnavailable, match="people can't be read at the moment"):
        verifier._have_read(cast(Any, None), "people", {7: frozenset()})
    assert not asked[0].is_wanted
    assert not can_read
