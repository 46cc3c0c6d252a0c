"""Every fault has one action and one sentence."""

from __future__ import annotations

import importlib
import pkgutil

import replicator
from replicator import errors
from replicator.errors import ACTIONS, Action, ReplicatorError, SourceUnavailable, action_for


def all_errors() -> set[type[ReplicatorError]]:
    for module in pkgutil.iter_modules(replicator.__path__):
        if module.name != "__main__":
            importlib.import_module(f"replicator.{module.name}")
    found: set[type[ReplicatorError]] = set()
    waiting = [ReplicatorError]
    while waiting:
        below = waiting.pop().__subclasses__()
        found.update(below)
        waiting.extend(below)
    return {each for each in found if each.__module__.startswith("replicator.")}


def test_every_error_of_the_tree_has_an_action_and_a_sentence() -> None:
    tree = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ReplicatorError)}
    assert ACTIONS.keys() == tree - {ReplicatorError}
    for action, sentence in ACTIONS.values():
        assert isinstance(action, Action)
        assert sentence.endswith(".")


def test_an_error_made_elsewhere_inherits_an_action() -> None:
    """`Stopped` is no fault: the pipeline itself catches it."""
    orphans = {each.__name__ for each in all_errors() if not set(each.__mro__) & ACTIONS.keys()}
    assert orphans == {"Stopped"}


def test_the_nearest_action_counts() -> None:
    class Rebooting(SourceUnavailable):
        pass

    assert action_for(Rebooting()) == ACTIONS[SourceUnavailable]


def test_an_error_that_nobody_thought_of_stops() -> None:
    action, sentence = action_for(ReplicatorError())
    assert action is Action.STOP
    assert "defect" in sentence
