"""Our murmur2 is Kafka's."""

from __future__ import annotations

import pytest

from replicator.partitioner import murmur2, partition_of

KAFKAS_OWN = {  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), KAFKAS_OWN.items())
def test_hashes_are_those_of_kafkas_own_test(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32


def test_the_sign_bit_is_cleared_before_the_remainder() -> None:
    """`toPositive`: not abs(), not an unsigned remainder; b"21" hashes to a negative number."""
    assert partition_of(21, 7) == (-973932308 & 0x7FFFFFFF) % 7 == 3
    assert 973932308 % 7 != 3
    assert (-973932308 % 2**32) % 7 != 3
