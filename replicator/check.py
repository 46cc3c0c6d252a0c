"""`replicator check`: everything that could go wrong with this source and this Kafka. Changes nothing.

Reads facts (`inspection`, `topics`), has them judged (`…_rules`), shows the result.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from replicator import topics
from replicator.config import Settings
from replicator.derived_inspection import read_derived
from replicator.derived_rules import judge_derived
from replicator.errors import ReplicatorError, SourceRefused, SourceUnavailable
from replicator.facts import SourceFacts
from replicator.findings import KAFKA_OWNER, OPERATOR, Finding, Severity, ok, refusal
from replicator.inspection import read_source
from replicator.mode_rules import judge_mode, postponed, why_polled
from replicator.modes import Why
from replicator.poll_inspection import read_polled
from replicator.poll_rules import can_poll, judge_polling
from replicator.publication_rules import judge_publication
from replicator.server_rules import judge_polled_server, judge_server
from replicator.table_rules import judge_tables
from replicator.topic_rules import judge_kafka

COLOURS: Final = {
    Severity.OK: "green",
    Severity.NOTE: "cyan",
    Severity.WARNING: "yellow",
    Severity.REFUSAL: "bold red",
}


def run(settings: Settings) -> list[Finding]:
    """Source and Kafka; one that can't be asked is itself a finding."""
    return [*_source(settings), *_kafka(settings)]


def refuse(settings: Settings) -> None:
    """Raises SourceRefused with every reason why this source can't be streamed; SourceUnavailable if it is away.

    A standby is away too: in the middle of a failover one may answer at the primary's address.
    """
    facts = read_source(settings)
    if facts.server.in_recovery:
        raise SourceUnavailable("the source's address leads to a standby; the replicator needs the primary")
    refusals = [finding for finding in judge_source(facts, settings) if finding.severity is Severity.REFUSAL]
    if refusals:
        raise SourceRefused("\n".join(f"{finding.name} {finding.subject}: {finding.reason}" for finding in refusals))


def judge_source(facts: SourceFacts, settings: Settings) -> list[Finding]:
    """All rules about the source."""
    return [*judge_server(facts, settings), *judge_tables(facts, settings), *judge_publication(facts, settings)]


def has_findings(findings: list[Finding]) -> bool:
    """Whether there is something to do."""
    return any(finding.severity in (Severity.WARNING, Severity.REFUSAL) for finding in findings)


def to_json(findings: list[Finding]) -> list[dict[str, Any]]:
    return [asdict(finding) for finding in findings]


def render(findings: list[Finding]) -> RenderableType:
    """For a person, readable at 100 columns: the remedy stands below its reason, whole, to be copied."""
    table = Table(show_lines=False, box=None, padding=(0, 1), expand=False)
    table.add_column("", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("why, and what mends it", overflow="fold")
    for finding in findings:
        text = Text.assemble((finding.subject, "bold"), ": ", finding.reason)
        if finding.remedy:
            text.append(f"\n{finding.remedy}", style="cyan")
            text.append(f"\n({finding.whose})", style="dim")
        table.add_row(Text(finding.severity, style=COLOURS[finding.severity]), finding.name, text)
    return table


def _source(settings: Settings) -> list[Finding]:
    try:
        facts = read_source(settings)
    except ReplicatorError as error:
        return [
            refusal("source", "connection", str(error), "see REPLICATOR_SOURCE_DSN and the way there", whose=OPERATOR)
        ]
    reached = ok("source", f"{facts.server.database} as {facts.role.name}", "answers")
    try:
        return [reached, *_by_mode(facts, settings)]
    except ReplicatorError as error:  # it went away meanwhile
        return [refusal("source", "connection", str(error), "run it again", whose=OPERATOR)]


def _by_mode(facts: SourceFacts, settings: Settings) -> list[Finding]:
    """What is asked of the source depends on how it will be read."""
    would_poll = why_polled(facts, settings, can_poll=True) is not Why.NONE
    polled = read_polled(settings) if would_poll else ()
    why = why_polled(facts, settings, can_poll=can_poll(polled))
    mode = judge_mode(why, settings)
    for_both = judge_polled_server(facts)
    polling = judge_polling(polled, facts.role.name, settings) if would_poll else []
    if why is Why.SETTING:
        return [mode, *for_both, *polling]
    streamed = [*judge_source(facts, settings), *_derived(facts, settings)]
    if why is Why.NONE:
        return [mode, *streamed, *postponed(polling)]  # the stream's refusals say what has to be mended
    return [mode, *for_both, *postponed(each for each in streamed if each not in for_both), *polling]


def _derived(facts: SourceFacts, settings: Settings) -> list[Finding]:
    unread = (each for each in judge_tables(facts, settings) if each.name == "table")
    if any(finding.severity is Severity.REFUSAL for finding in unread):
        return []  # what they are made of must be there first
    return judge_derived(read_derived(settings), facts, settings)


def _kafka(settings: Settings) -> list[Finding]:
    try:
        facts = topics.inspect(topics.kafka_base(settings), settings)
    except ReplicatorError as error:
        remedy = "see REPLICATOR_KAFKA_BOOTSTRAP_SERVERS and REPLICATOR_KAFKA_OPTIONS"
        return [refusal("kafka", settings.kafka_bootstrap_servers, str(error), remedy, whose=OPERATOR)]
    return [ok("kafka", settings.kafka_bootstrap_servers, "answers", whose=KAFKA_OWNER), *judge_kafka(facts, settings)]
