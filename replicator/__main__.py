"""The `replicator` program: commands, their output, their exit codes.

0: done. 1: a finding or a refusal, said in one sentence. 2: wrong use (a setting, an argument).
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.live import Live

from replicator.backfill_commands import app as backfill
from replicator.config import Settings, load
from replicator.modes import Mode
from replicator.terminal import Apply, AsJson, faults

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reads a Chatwoot PostgreSQL by logical replication and publishes change events, keyed by inbox, to Kafka.",
)
app.add_typer(backfill, name="backfill")


@app.command(epilog="Example: replicator run --verify")
def run(
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare what was published with the source, again and again, as a proof.")
    ] = False,
) -> None:
    """The service: stream the source, or poll it while that is impossible, until SIGTERM."""
    from replicator import process_memory, topics
    from replicator.pipeline import Pipeline
    from replicator.runtime import Health, Stop, configure_logging

    with faults():
        settings = load(verify=True) if verify else load()
        process_memory.settle()
        configure_logging(settings.log_level)
        log = structlog.get_logger("replicator")
        stop = Stop()
        stop.install()
        kafka = topics.kafka_base(settings)
        pipeline = Pipeline(settings, kafka, stop, prepare=lambda mode: _prepare(settings, mode))
        health = Health(settings.http_host, settings.http_port, pipeline.status)
        health.start()
        log.info("replicator.starts", http_port=health.port, slot=settings.slot, topics=settings.topic_prefix)
        try:
            pipeline.serve()
        finally:
            health.stop()
            log.info("replicator.stopped")


@app.command(epilog="Example: replicator check --json")
def check(as_json: AsJson = False) -> None:
    """Everything that could go wrong with this source, each with the SQL or the setting that mends it."""
    from replicator import check as checks

    with faults():
        findings = checks.run(load())
        if as_json:
            print(json.dumps(checks.to_json(findings), indent=2))
        else:
            Console().print(checks.render(findings))
        raise typer.Exit(1 if checks.has_findings(findings) else 0)


@app.command(epilog="Example: replicator setup --apply")
def setup(
    apply: Apply = False,
    as_json: AsJson = False,
    replace_view: Annotated[
        bool, typer.Option("--replace-view", help="Give the analytics view that is there our definition.")
    ] = False,
    keep_view: Annotated[
        bool,
        typer.Option("--keep-view", help="Leave the analytics view that is there without the columns that it lacks."),
    ] = False,
) -> None:
    """Publication, replica identities, analytics view: what is missing, as a plan, or done with --apply."""
    from replicator import setup as preparing
    from replicator.view_preparation import Existing

    if replace_view and keep_view:
        raise typer.BadParameter("give --replace-view or --keep-view, not both")
    existing: Existing = "replaced" if replace_view else "kept" if keep_view else "extended"
    with faults():
        settings = load()
        steps = preparing.plan(settings, existing_view=existing)
        if as_json:
            print(json.dumps(preparing.to_json(steps), indent=2))
        else:
            Console().print(preparing.render(steps), soft_wrap=True)  # broken lines could not be copied
        if apply and steps:
            said = Console(stderr=True)
            preparing.apply(settings, steps, lambda step: said.print(f"done: {step.why}"), existing_view=existing)
            if replace_view and any(step.by_hand for step in steps):
                raise typer.Exit(1)


@app.command(epilog="Example: replicator status --watch")
def status(
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until Ctrl-C.")] = False,
) -> None:
    """Mode, lag, backfills with their progress, held WAL."""
    from replicator import topics
    from replicator.status import gather, render

    with faults():
        settings = load()
        kafka = topics.kafka_base(settings)
        found = gather(settings, kafka)
        if as_json:
            print(json.dumps(found, indent=2))
        elif not watch:
            Console().print(render(found))
        else:
            found = _watch(settings, kafka)
        raise typer.Exit(0 if found["running"] and not found["faults"] else 1)


def _prepare(settings: Settings, mode: Mode) -> None:
    """What must hold before a run: of a source that is streamed no refusal."""
    from replicator import check

    if mode is Mode.STREAM:
        check.refuse(settings)


def _watch(settings: Settings, kafka: dict[str, Any]) -> dict[str, Any]:
    """What was shown last."""
    from replicator.status import gather, render

    found = gather(settings, kafka)
    with Live(render(found), refresh_per_second=4) as live:
        try:
            while True:
                time.sleep(1)
                found = gather(settings, kafka)
                live.update(render(found))
        except KeyboardInterrupt:
            return found


def main() -> None:
    """The entry point of the installed program."""
    app()


if __name__ == "__main__":
    main()
