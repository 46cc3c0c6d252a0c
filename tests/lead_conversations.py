"""The conversations of tests/golden/lead_conversations.txt, as the view's `message_compiled` would hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parent / "golden" / "lead_conversations.txt"
_SPEAKERS: Final = {
    # message_type, sender, private
    "client": (0, "contact", False),
    "agent": (1, "agent", False),
    "bot": (1, "bot", False),
    "note": (1, "agent", True),
    "activity": (2, "system", False),
    "template": (3, "system", False),
}


@dataclass(slots=True)
class Conversation:
    """One conversation, and what is expected of it."""

    what: str
    message_compiled: list[dict[str, Any]] = field(default_factory=list)
    signals: frozenset[str] = frozenset()
    score: int = 0
    label: str = ""
    evidence: list[tuple[str, int]] = field(default_factory=list)


def conversations(file: Path = FILE) -> list[Conversation]:
    """In the file's order."""
    found: list[Conversation] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            found.append(Conversation(line[3:]))
        elif line.startswith("-> "):
            signals, _, said = line[3:].partition("|")
            found[-1].signals = frozenset(signals.split()) - {"none"}
            score, found[-1].label = said.split()
            found[-1].score = int(score)
        elif line and not line.startswith("#"):
            _add(found[-1], line)
    return found


def _add(conversation: Conversation, line: str) -> None:
    if conversation.label:
        pieces = (piece.split() for piece in line.split(","))
        conversation.evidence = [(rule, int(message)) for rule, message in pieces]
        return
    who, _, text = line.partition(": ")
    kind, sender, private = _SPEAKERS[who]
    number = len(conversation.message_compiled) + 1
    element = {"message_id": number, "text": text, "sender": sender, "message_type": kind, "private": private}
    # An hour that nobody wrote.
    element["sent_at"] = f"2026-03-10T18:52:07.{number:06}"
    conversation.message_compiled.append(element)
