"""Which partition of the changes topic an inbox lives in.

Kafka's default partitioner for keyed records (murmur2, as Java clients and librdkafka's `murmur2_random` have it), so
that any other producer or consumer agrees with us. It is computed here because both sides must know it: a backfill's
marker in a partition speaks only of the inboxes of that partition.

Rule: org.apache.kafka.common.utils.Utils.murmur2 and `toPositive(murmur2(key)) % partitions`.

Pure.
"""

from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_R: Final = 24
_MASK: Final = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The unsigned 32-bit murmur2 hash that Kafka uses."""
    length = len(data)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ k >> _R) * _M & _MASK
        h = h * _M & _MASK ^ k
    if tail := data[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def partition_of(inbox: int, partitions: int) -> int:
    """The partition, 0-based, of the events keyed by this inbox."""
    return (murmur2(b"%d" % inbox) & 0x7FFFFFFF) % partitions
