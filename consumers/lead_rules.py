"""A tenant's lead rules, compiled: which of them a message hits.

A rule is a pattern in RE2's syntax (https://github.com/google/re2/wiki/Syntax), searched for in a normalised text
(consumers/conversation_texts.py). RE2 reads a text once, whatever the pattern, so time grows with the length of the
text alone; what a set of rules may cost per character is bounded by its size in RE2's instructions. Rules that can't be
taken are refused all together, each with its reason; so is a pattern that no normalised text can match, as far as that
can be seen from its letters: it would be silent for ever.

Pure.
"""

from __future__ import annotations

import re
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Final, get_args

import re2

from consumers import conversation_texts
from consumers.conversation_texts import SHORT, Message, normalise
from consumers.errors import RulesRefused

SIGNALS: Final = ("lead", "visit", "conversion")
SPEAKERS: Final = ("client", "agent", "any")

RULES: Final = 500
NAME_CHARACTERS: Final = 100
WEIGHT: Final = 100
PATTERN_CHARACTERS: Final = 1_000
PATTERN_BYTES: Final = 128 << 10
"""What RE2 may take for one pattern, to tell a counted repetition that explodes from one that does not."""
INSTRUCTIONS: Final = 20_000
"""Of all rules together, as RE2 counts them. The worst take 30 ns for each of them and each character of a text."""
OWN_INSTRUCTIONS: Final = 3_000
"""Of the rules that are a tenant's own: 2 s for the longest conversation at the worst."""
REMEMBERED_HITS: Final = 2_048
"""Texts of which a set remembers what they hit: it goes with the set."""
COMPILED: Final = 24
"""Sets that are compiled at once, two of a tenant with rules of its own; beyond that they are compiled when they are
asked for (81 rules in a few milliseconds). Measured: 10 MB for a tenant."""
SET_BYTES: Final = 8 << 20
"""What RE2 may take for the rules of one speaker, its cache of states included; a larger one saves time."""

_TOKEN: Final = re.compile(
    r"(?P<name>\(\?P?<\w+>)|(?P<class>\[:\^?\w+:\])|(?P<escape>\\.?)|(?P<character>.)", re.DOTALL
)
_ESCAPES: Final = frozenset("dDsSwWbBAz")
_CLASSES: Final = frozenset({"[:alpha:]", "[:alnum:]", "[:digit:]", "[:lower:]", "[:punct:]", "[:space:]", "[:word:]"})


@dataclass(frozen=True, slots=True)
class Rule:
    """What a message that matches says of a signal, and how strongly.

    A positive weight speaks for the signal; a negative one takes it back ("não quero agendar"). RuleSet checks all of
    it, as rules come from a table or a file.
    """

    name: str
    pattern: str
    signal: str
    """One of SIGNALS."""
    weight: int
    """In points of the score, −100 to 100, not 0."""
    speaker: str
    """One of SPEAKERS."""

    @property
    def takes_back(self) -> bool:
        return self.weight < 0


class RuleSet:
    """Rules of one tenant, ready to be asked. Immutable; any number of threads may share it."""

    __slots__ = ("_by_speaker",)

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Raises RulesRefused, which names each rule that can't be taken and says why."""
        ordered = sorted(rules, key=lambda rule: str(rule.name))
        if faults := _faults(ordered):
            raise RulesRefused(faults)
        self._by_speaker = {
            speaker: _Compiled([rule for rule in ordered if rule.speaker in (speaker, "any")])
            for speaker in get_args(conversation_texts.Speaker)
        }

    def hits(self, message: Message) -> tuple[Rule, ...]:
        """The rules that match what this speaker wrote, by name."""
        return self._by_speaker[message.speaker].hits(message.text)


class _Compiled:
    """Rules that are searched for together, in one pass over a text. Compiled when they are asked for."""

    __slots__ = ("__weakref__", "_machine", "_rules")

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Raises RulesRefused."""
        self._rules = rules
        self._machine: _Machine | None = None
        self._ready()

    def hits(self, text: str) -> tuple[Rule, ...]:
        return self._ready().hits(text) if self._rules else ()

    def _ready(self) -> _Machine:
        machine = self._machine
        if machine is None:
            machine = self._machine = _Machine(self._rules)
        _IN_USE.use(self)
        return machine

    def forget(self) -> None:
        """Gives the memory back."""
        self._machine = None


class _Machine:
    """What RE2 has made of rules, and what texts have hit."""

    __slots__ = ("_remembered", "_rules", "_set")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._remembered = lru_cache(REMEMBERED_HITS)(self._match)
        self._set = re2.Set.SearchSet(_options(SET_BYTES))
        for rule in rules:
            self._set.Add(rule.pattern)
        if rules:
            try:
                self._set.Compile()
            except re2.error:
                reason = f"RE2 can't hold the rules together in {SET_BYTES >> 20} MiB: {len(rules)} rules"
                raise RulesRefused([(rule.name, reason) for rule in rules]) from None

    def hits(self, text: str) -> tuple[Rule, ...]:
        return self._remembered(text) if len(text) <= SHORT else self._match(text)

    def _match(self, text: str) -> tuple[Rule, ...]:
        # As bytes, since re2 would refuse the half of a surrogate pair, which JSON may hold.
        found = self._set.Match(text.encode(errors="replace"))
        return tuple(self._rules[index] for index in sorted(found)) if found else ()


class _InUse:
    """The rules that are compiled now, of all tenants: those that were not asked for the longest give way."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self._compiled: OrderedDict[int, weakref.ref[_Compiled]] = OrderedDict()

    def use(self, rules: _Compiled) -> None:
        with self._lock:
            self._compiled[id(rules)] = weakref.ref(rules)
            self._compiled.move_to_end(id(rules))
            while len(self._compiled) > self._most:
                _, oldest = self._compiled.popitem(last=False)
                if (found := oldest()) is not None:
                    found.forget()


_IN_USE: Final = _InUse(COMPILED)


def _options(size: int) -> re2.Options:
    options = re2.Options()
    options.max_mem = size
    options.log_errors = False  # it would write a tenant's pattern to stderr
    return options


def _faults(rules: Sequence[Rule]) -> list[tuple[str, str]]:
    """The name of each rule that can't be taken, with the reason."""
    if len(rules) > RULES:
        return [(str(rule.name), f"there are {len(rules)} rules, at most {RULES} are taken") for rule in rules[RULES:]]
    faults: list[tuple[str, str]] = []
    instructions = 0
    before = None
    for rule in rules:
        reason = f"another rule has this name: {rule.name!r}" if rule.name == before else _form(rule)
        before = rule.name
        if not reason:
            size, reason = _compiled(rule.pattern)
            instructions += size
        if not reason and instructions > INSTRUCTIONS:
            reason = f"the rules up to this one, by name, have {instructions} RE2 instructions, at most {INSTRUCTIONS}"
        if reason:
            faults.append((str(rule.name), reason))
    return faults


def _form(rule: Rule) -> str:
    """What is wrong with a rule before RE2 has seen it: "" if nothing."""
    if not isinstance(rule.name, str) or not 0 < len(rule.name) <= NAME_CHARACTERS:
        return f"a rule needs a name, of {NAME_CHARACTERS} characters at the most"
    if rule.signal not in SIGNALS:
        return f"the signal must be one of {', '.join(SIGNALS)}"
    if rule.speaker not in SPEAKERS:
        return f"the speaker must be one of {', '.join(SPEAKERS)}"
    if type(rule.weight) is not int or not 0 < abs(rule.weight) <= WEIGHT:
        return f"the weight must be an integer from {-WEIGHT} to {WEIGHT}, and not 0"
    if not isinstance(rule.pattern, str) or not 0 < len(rule.pattern) <= PATTERN_CHARACTERS:
        return f"the pattern must be a text of 1 to {PATTERN_CHARACTERS} characters"
    return _never(rule.pattern)


def _never(pattern: str) -> str:
    """What in a pattern no normalised text can hold: "" if nothing is seen.

    Patterns are not normalised themselves: \\S would become \\s.
    """
    before = ""
    for token in _TOKEN.finditer(pattern):
        piece = token[0]
        if token["escape"] and not (piece[1:] in _ESCAPES or (piece[1:].isascii() and not piece[1:].isalnum())):
            return f"the escape {piece} is not taken: texts are one line in lower case without accents"
        if token["class"] and piece not in _CLASSES:
            return f"the class {piece} is not taken; these are: {', '.join(sorted(_CLASSES))}"
        if token["character"] and piece != " " and (normal := normalise(piece)) != piece:
            instead = f"write {normal!r}" if normal else "leave it out"
            return f"{piece!r} is in no text, as texts are in lower case without accents: {instead}"
        if before == piece == " ":
            return "there are no two spaces in a row in any text: write one"
        before = piece
    return ""


def instructions(pattern: str) -> int:
    """RE2's, of one pattern; 0 for what it can't take."""
    return _compiled(pattern)[0]


def _compiled(pattern: str) -> tuple[int, str]:
    """The number of RE2's instructions, or what RE2 says against the pattern."""
    try:
        # Not re2.compile, which keeps what it has compiled.
        found = re2._Regexp(pattern, _options(PATTERN_BYTES))
    except re2.error as error:
        return 0, f"RE2: {_said(error)}"
    if found.search("") is not None:
        return 0, "the pattern matches the empty text, and so every text"
    return found.programsize, ""


def _said(error: Exception) -> str:
    (reason,) = error.args
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
