"""Bytes of the stream to messages: golden bytes, and not one unexpected byte is passed over.

The bytes are written by hand from
https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html, and captured from a PostgreSQL 18.6
(`tests/golden/postgres-18.6.hex`, one frame a line, the whole stream of a slot in order).
"""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ProtocolError
from replicator.pgoutput import (
    ABSENT,
    POSTGRES_EPOCH_US,
    Begin,
    Column,
    Commit,
    Delete,
    Ignored,
    Insert,
    Keepalive,
    LogicalMessage,
    Message,
    RawRow,
    Relation,
    Truncate,
    Update,
    decode_frame,
    encode_feedback,
)

CAPTURED = [
    bytes.fromhex(line)
    for line in (Path(__file__).parents[1] / "golden" / "postgres-18.6.hex").read_text().splitlines()
]


def h(text: str) -> bytes:
    """Hex with spaces and `'text'` in between."""
    parts = text.split("'")
    return b"".join(part.encode() if i % 2 else bytes.fromhex(part) for i, part in enumerate(parts))


FRAME = h("77 00000016B374D848 00000016B374D900 0000000000000000")  # 'w', start 16/B374D848, end, clock
RELATION = h(
    "'R' 0000400D 'public' 00 'messages' 00 'i' 0003"
    "01 'id' 00 00000014 FFFFFFFF   00 'note' 00 00000019 FFFFFFFF   00 'price' 00 000006A4 000A0006"
)
WRITTEN: dict[str, tuple[bytes, Message]] = {
    "begin": (
        h("'B' 00000016B374D900 00000000000F4240 FFFFFFFE"),
        Begin(0x16_B374D900, 946_684_801_000_000, 4294967294),
    ),
    "commit": (
        h("'C' 00 00000016B374D900 00000016B374D930 00000000000F4240"),
        Commit(0x16_B374D900, 0x16_B374D930),
    ),
    "transactional message": (
        h("'M' 01 0000000000000010 'inbox' 00 00000002 6869"),
        LogicalMessage(True, 16, "inbox", b"hi"),
    ),
    "message outside a transaction": (
        h("'M' 00 0000000000000010 00 00000000"),
        LogicalMessage(False, 16, "", b""),
    ),
    "relation": (
        RELATION,
        Relation(
            0x400D,
            "public",
            "messages",
            "i",
            (Column("id", 20, -1, True), Column("note", 25, -1, False), Column("price", 1700, 0xA0006, False)),
        ),
    ),
    "relation of pg_catalog, whose name is left out": (
        h("'R' 0000400D 00 'caf' C3A9 00 'n' 0000"),
        Relation(0x400D, "pg_catalog", "café", "n", ()),
    ),
    "insert": (
        h("'I' 0000400D 'N' 0004 't' 00000003 313233 'n' 't' 00000000 'u'"),
        Insert(0x400D, [b"123", None, b"", ABSENT]),
    ),
    "update": (
        h("'U' 0000400D 'N' 0002 't' 00000001 31 'u'"),
        Update(0x400D, "", [], [b"1", ABSENT]),
    ),
    "update with the old key": (
        h("'U' 0000400D 'K' 0002 't' 00000001 31 'n' 'N' 0002 't' 00000001 32 'u'"),
        Update(0x400D, "K", [b"1", None], [b"2", ABSENT]),
    ),
    "update with the old row": (
        h("'U' 0000400D 'O' 0002 't' 00000001 31 't' 00000001 78 'N' 0002 't' 00000001 32 'n'"),
        Update(0x400D, "O", [b"1", b"x"], [b"2", None]),
    ),
    "delete by key": (h("'D' 0000400D 'K' 0001 't' 00000001 31"), Delete(0x400D, "K", [b"1"])),
    "delete with the old row": (h("'D' 0000400D 'O' 0001 'n'"), Delete(0x400D, "O", [None])),
    "truncate": (h("'T' 00000002 03 0000400D 0000400E"), Truncate((0x400D, 0x400E))),
    "origin": (h("'O' 0000000000000010 'elsewhere' 00"), Ignored("origin")),
    "type": (h("'Y' 0000400F 'public' 00 'mood' 00"), Ignored("type")),
}
KEEPALIVE = h("6B 00000016B374D848 00000000000F4240 01")
FRAMES = {name: FRAME + body for name, (body, _) in WRITTEN.items()} | {"keepalive": KEEPALIVE}


@pytest.mark.parametrize("name", WRITTEN)
def test_bytes_of_the_documentation_become_the_message(name: str) -> None:
    body, message = WRITTEN[name]
    assert decode_frame(FRAME + body) == message


def test_a_keepalive_says_how_far_the_server_is_and_whether_it_waits_for_an_answer() -> None:
    assert decode_frame(KEEPALIVE) == Keepalive(0x16_B374D848, 946_684_801_000_000, True)
    assert decode_frame(KEEPALIVE[:-1] + b"\0") == Keepalive(0x16_B374D848, 946_684_801_000_000, False)


def test_feedback_says_written_flushed_and_applied() -> None:
    assert encode_feedback(0x20, 0x10, POSTGRES_EPOCH_US + 1_000_000, ask_reply=True) == h(
        "'r' 0000000000000020 0000000000000010 0000000000000010 00000000000F4240 01"
    )
    assert encode_feedback(0, 0, POSTGRES_EPOCH_US - 1, ask_reply=False)[25:] == h("FFFFFFFFFFFFFFFF 00")


BIG = b"n" * 2100
ROWS, LINKS, PLAIN = 16481, 16491, 16499
ROW_COLUMNS = (
    *("inbox_id", "id", "remark", "feel", "price", "at", "doc", "tags", "ok", "later"),  # `size` was dropped
)


def test_what_a_server_sent_is_what_was_done_to_its_tables() -> None:
    seen = [decode_frame(frame) for frame in CAPTURED]
    changes = [each for each in seen if isinstance(each, Insert | Update | Delete | Truncate | LogicalMessage)]
    old_2: RawRow = [b"7", b"2", *[None] * 8]
    assert changes == [
        Insert(
            ROWS,
            [
                *(b"7", b"1", b"5", "café".encode(), b"good", b"12.50", b"0044-03-15 12:00:00+00 BC", b'{"a": null}'),
                *(b'{x,NULL,"y z"}', b"t"),
            ],
        ),
        Insert(ROWS, [b"7", b"2", None, None, None, b"NaN", b"infinity", None, None, None]),
        Update(ROWS, "", [], [b"7", b"2", None, BIG, None, b"NaN", b"infinity", None, None, None]),
        Update(ROWS, "", [], [b"7", b"2", None, ABSENT, None, b"NaN", b"infinity", None, None, b"f"]),
        Update(ROWS, "K", old_2, [b"8", b"2", None, ABSENT, None, b"NaN", b"infinity", None, None, b"f"]),
        Delete(ROWS, "K", [b"7", b"1", *[None] * 8]),
        Insert(LINKS, [b"1", None, None]),
        Update(LINKS, "O", [b"1", None, None], [b"1", b"7", None]),
        Delete(LINKS, "O", [b"1", b"7", None]),
        Insert(LINKS, [b"2", b"7", BIG]),
        Update(LINKS, "O", [b"2", b"7", BIG], [b"2", b"8", ABSENT]),
        Insert(PLAIN, [b"1", b"7"]),
        Update(PLAIN, "", [], [b"1", b"8"]),
        Update(PLAIN, "K", [b"1", None], [b"2", b"8"]),
        Delete(PLAIN, "K", [b"2", None]),
        Insert(ROWS, [b"7", b"3", *[None] * 7, b"3"]),
        Truncate((ROWS, LINKS)),
        LogicalMessage(False, 37514456, "inbox-replicator", b"low:abc"),
        LogicalMessage(True, 37514528, "inbox-replicator", b"flush"),
        Insert(PLAIN, [b"9", b"9"]),
    ]
    identities = {each.name: each.identity for each in seen if isinstance(each, Relation)}
    assert identities == {"rows": "i", "links": "f", "plain": "d"}
    newest = [each for each in seen if isinstance(each, Relation) and each.oid == ROWS][-1]
    assert tuple(column.name for column in newest.columns) == ROW_COLUMNS
    assert [column.name for column in newest.columns if column.is_identity] == ["inbox_id", "id"]


def test_each_commit_of_a_server_ends_its_begin() -> None:
    begun: Begin | None = None
    ended = 0
    for message in map(decode_frame, CAPTURED):
        if isinstance(message, Begin):
            assert begun is None
            begun = message
        elif isinstance(message, Commit):
            assert begun is not None
            assert ended < begun.commit_lsn == message.commit_lsn < message.end_lsn
            ended, begun = message.end_lsn, None
    assert begun is None


@pytest.mark.parametrize("frame", [*FRAMES.values(), *CAPTURED], ids=lambda frame: frame[25:26].decode() or "k")
def test_a_frame_cut_anywhere_is_refused(frame: bytes) -> None:
    for length in range(len(frame)):
        with pytest.raises(ProtocolError):
            decode_frame(frame[:length])


@pytest.mark.parametrize("frame", [*FRAMES.values(), *CAPTURED], ids=lambda frame: frame[25:26].decode() or "k")
def test_a_frame_with_bytes_left_over_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_frame(frame + b"\0")


@pytest.mark.parametrize("kind", sorted({*range(256)} - {*b"wk"}))
def test_an_unknown_frame_is_refused(kind: int) -> None:
    with pytest.raises(ProtocolError, match="unknown frame"):
        decode_frame(bytes([kind]) + FRAME[1:] + RELATION)


def test_an_unknown_message_is_refused_with_its_type_and_position() -> None:
    """The letters of streamed and two-phase transactions too: version 1 never sends them."""
    for kind in {*range(256)} - {*b"BCMRIUDTOY"}:
        with pytest.raises(ProtocolError) as refused:
            decode_frame(FRAME + bytes([kind]) + RELATION[1:])
        assert f"{bytes([kind])!r} at 16/B374D848" in str(refused.value)


def test_an_unknown_column_kind_is_refused_with_its_type_and_position() -> None:
    """Passing over one would shift every later column. `b` is binary, which we do not ask for."""
    for kind in {*range(256)} - {*b"nut"}:
        with pytest.raises(ProtocolError) as refused:
            decode_frame(FRAME + h("'I' 0000400D 'N' 0002") + bytes([kind]) + h("'n'"))
        assert f"column kind {chr(kind)!r} in the message of type b'I' at 16/B374D848" in str(refused.value)


@pytest.mark.parametrize(("head", "known"), [("'I'", b"N"), ("'D'", b"KO"), ("'U'", b"KON")])
def test_an_unknown_row_kind_is_refused_with_its_type_and_position(head: str, known: bytes) -> None:
    for kind in {*range(256)} - {*known}:
        with pytest.raises(ProtocolError) as refused:
            decode_frame(FRAME + h(head + "0000400D") + bytes([kind]) + h("0001 'n'"))
        assert f"row kind {chr(kind)!r} in the message of type b{head} at 16/B374D848" in str(refused.value)


def test_an_update_needs_its_new_row_after_the_old() -> None:
    for kind in {*range(256)} - {*b"N"}:
        with pytest.raises(ProtocolError, match="row kind"):
            decode_frame(FRAME + h("'U' 0000400D 'K' 0001 'n'") + bytes([kind]) + h("0001 'n'"))


def test_an_absurd_length_is_refused_without_the_memory_it_asks_for() -> None:
    for body in (
        "'I' 0000400D 'N' 0001 't' FFFFFFFF 31",
        "'T' FFFFFFFF 00 0000400D",
        "'M' 00 0000000000000010 00 FFFFFFFF",
    ):
        with pytest.raises(ProtocolError):
            decode_frame(FRAME + h(body))


def test_a_name_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ProtocolError):
        decode_frame(FRAME + h("'R' 0000400D FF 00 'messages' 00 'i' 0000"))


def pack_row(row: RawRow) -> bytes:
    parts = [struct.pack("!H", len(row))]
    for value in row:
        if value is None:
            parts.append(b"n")
        elif isinstance(value, bytes):
            parts.append(b"t" + struct.pack("!I", len(value)) + value)
        else:
            parts.append(b"u")
    return b"".join(parts)


OIDS = st.integers(0, 2**32 - 1)
ROW = st.lists(st.none() | st.just(ABSENT) | st.binary(max_size=20), max_size=8)


@given(oid=OIDS, new=ROW)
def test_any_inserted_row_comes_through(oid: int, new: RawRow) -> None:
    assert decode_frame(FRAME + b"I" + struct.pack("!I", oid) + b"N" + pack_row(new)) == Insert(oid, new)


@given(oid=OIDS, kind=st.sampled_from("KO"), old=ROW, new=ROW)
def test_any_updated_row_comes_through(oid: int, kind: str, old: RawRow, new: RawRow) -> None:
    body = b"U" + struct.pack("!I", oid) + kind.encode() + pack_row(old) + b"N" + pack_row(new)
    assert decode_frame(FRAME + body) == Update(oid, kind, old, new)


@given(oid=OIDS, kind=st.sampled_from("KO"), old=ROW)
def test_any_deleted_row_comes_through(oid: int, kind: str, old: RawRow) -> None:
    assert decode_frame(FRAME + b"D" + struct.pack("!I", oid) + kind.encode() + pack_row(old)) == Delete(oid, kind, old)


@given(
    frame=st.binary(max_size=60), header=st.sampled_from([b"", b"k", b"w", FRAME]), kind=st.sampled_from("BCMRIUDTOY")
)
def test_garbage_is_a_protocol_error_or_a_message_but_never_another_fault(
    frame: bytes, header: bytes, kind: str
) -> None:
    with suppress(ProtocolError):
        decode_frame(header + kind.encode() + frame)
