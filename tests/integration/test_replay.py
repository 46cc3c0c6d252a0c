"""`consumers replay`: what was damaged by hand is named exactly and brought back, while everybody goes on."""

from __future__ import annotations

import signal
from contextlib import closing

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.shadow import Shadow
from consumers.tenants import TENANT_LOCK
from demo.servers import wait_until
from demo.source.seed import seed
from demo.source.traffic import Traffic
from replicator import Topics, partition_of
from tests.integration.chatwoot import add_message, connect, fill
from tests.integration.commands import answer, consumers, unlike
from tests.integration.damaged import DAMAGED_COLUMNS, columns, damage
from tests.integration.targets import Target, target_of
from tests.integration.whole import PARTITIONS, Whole

TENANT, OTHERS = 1, (2, 3)


def test_rows_damaged_by_hand_come_back_while_others_are_under_load(path: Whole) -> None:
    history = seed(path.source_dsn, tenants=3, inboxes_per_tenant=2, conversations=60, messages_per_conversation=3)
    path.map(history.inboxes)
    path.replicator()
    path.worker()
    path.wait_equal()
    busy, quiet = history.inboxes[TENANT]
    inboxes = [inbox for tenant in OTHERS for inbox in history.inboxes[tenant]]
    target = path.target
    with Traffic(path.source_dsn, inboxes=[busy, *inboxes], seed=5, rate=60) as traffic:
        wait_until(lambda: traffic.counts.transactions > 60, "traffic", 30)
        assert unlike(answer(path, "replay", "--tenant", TENANT)) == {}, "what is on its way is no difference"
        target.execute(f"UPDATE conversations_analytics SET analise_ia = 'ours' WHERE inbox_id = {quiet}")
        damaged = damage(target, TENANT, quiet)
        found = answer(path, "replay", "--tenant", TENANT, expect=1)
        assert (unlike(found), columns(found)) == (damaged, DAMAGED_COLUMNS)
        answer(path, "replay", "--tenant", TENANT, "--apply")
        before = traffic.counts.transactions
        wait_until(lambda: traffic.counts.transactions > before, "traffic goes on", 30)
    path.wait_equal()
    kept = f"SELECT count(*), count(analise_ia) FROM conversations_analytics WHERE inbox_id = {quiet}"
    ((rows, own),) = target.rows(kept)
    assert rows - own == 1, "what is the target's own stays; of the row that was deleted by hand nobody has it"


def test_a_stretch_speaks_only_of_what_it_mentions(path: Whole, kafka_bootstrap: str, topic_prefix: str) -> None:
    """Also: a row deleted since stays deleted, one that was written later stays, and what the log lost is refused."""
    with closing(connect(path.source_dsn)) as source:
        fill(source, conversations=12, messages=2)
        path.map({TENANT: [1]})
        path.replicator()
        path.worker()
        path.wait_equal()
        partition = partition_of(1, PARTITIONS)
        offsets = f"SELECT next_offset FROM replication_watermarks WHERE tenant_id = 1 AND partition = {partition}"
        ((offset,),) = path.target.rows(offsets)
        ((conversation,),) = path.source("SELECT min(id) FROM conversations WHERE inbox_id = 1")
        ((old, gone),) = path.source(f"SELECT min(id), max(id) FROM messages WHERE conversation_id = {conversation}")
        new = add_message(source, conversation, "new")
        path.source(f"DELETE FROM messages WHERE id = {gone}")
        path.wait_equal()
    path.target.execute(f"UPDATE messages SET content = 'damaged' WHERE id IN ({old}, {new})")
    path.target.execute(
        "INSERT INTO messages (tenant_id, id, inbox_id, conversation_id, synced_at)"
        f" VALUES (1, {gone}, 1, {conversation}, now()), (1, 900000, 1, {conversation}, now())"
    )
    start = f"offset:{partition}:{offset}"
    found = answer(path, "replay", "--tenant", TENANT, "--from", start, expect=1)
    assert unlike(found) == {"messages": {"extra": [gone], "different": [new]}}
    answer(path, "replay", "--tenant", TENANT, "--from", start, "--apply")
    damaged = "SELECT id FROM messages WHERE content = 'damaged' OR id >= 900000 ORDER BY id"
    assert path.target.rows(damaged) == [(old,), (900000,)], "the stretch does not mention them"
    answer(path, "replay", "--tenant", TENANT, "--inbox", 1, "--apply")
    path.wait_equal()

    assert_interrupted_cleanly(path)

    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    cut = TopicPartition(Topics(topic_prefix).changes, partition, offset)
    admin.delete_records([cut])[cut].result(10)
    for asked in (f"offset:{partition}:{offset - 1}", "2020-01-01"):
        refused = consumers(path, "replay", "--tenant", TENANT, "--from", asked, expect=1).stderr
        assert f"partition {partition} begins at offset {offset}" in refused
        assert "replicator backfill --inbox 1" in refused
    said = consumers(path, "replay", "--tenant", TENANT, "--from", "start").stderr
    assert "no longer in the log" in said, "from what the log still has, which is told"


def assert_interrupted_cleanly(path: Whole) -> None:
    """Ctrl-C while it waits for the tenant: a word, an exit code, no session left."""
    sessions = "SELECT wait_event FROM pg_stat_activity WHERE application_name = 'inbox-replicator replay'"
    with path.target.connected() as other:
        other.execute("SELECT pg_advisory_lock(%s, %s)", [TENANT_LOCK, TENANT])
        program = path.start(["consumers", "replay", "--tenant", str(TENANT)])
        wait_until(lambda: ("advisory",) in path.target.rows(sessions), "it waits", 60)
        program.send(signal.SIGINT)
        assert program.wait(20) == 130
    assert "the shadow is gone" in program.tail()
    wait_until(lambda: not path.target.rows(sessions), "its session has ended", 10)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tenant", 9], "there is no tenant 9"),
        (["--tenant", 2], "tenant 2 has no active inbox"),
        (["--tenant", 1, "--inbox", 3], "inbox 3 is no active inbox of tenant 1"),
        (["--tenant", 1, "--from", "yesterday"], "--from yesterday"),
    ],
)
def test_what_can_not_be_replayed_is_refused_in_a_sentence(path: Whole, arguments: list[object], says: str) -> None:
    path.map({1: [1], 2: []})
    code = 2 if "--from" in arguments else 1
    assert says in consumers(path, "replay", *arguments, expect=code).stderr


def test_nobody_else_can_read_the_shadow_which_goes_with_its_session(target_dsn: str) -> None:
    with target_of(target_dsn) as target:
        target.apply()
        target.make_reader()
        target.execute("INSERT INTO tenants (id, slug) VALUES (1, 't'), (2, 'u')")
        with closing(Shadow(target.settings(), 1, [1])) as shadow:
            shadow.connection.execute("INSERT INTO conversations (tenant_id, id) VALUES (1, 5)")
            ((schema,),) = shadow.connection.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()")
            with pytest.raises(psycopg.errors.CheckViolation):
                shadow.connection.execute("INSERT INTO conversations (tenant_id, id) VALUES (2, 5)")
            for role in ("reader", "applier", "owner", ""):
                assert_unreadable(target, role, f"SELECT * FROM {schema}.conversations")
            assert target.rows("SELECT * FROM public.conversations") == []
        left = f"SELECT relname FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r'"
        wait_until(lambda: not target.rows(left), "the shadow is gone", 10)


def assert_unreadable(target: Target, role: str, query: str) -> None:
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported)):
        target.rows(query, what=role, tenant=1)
