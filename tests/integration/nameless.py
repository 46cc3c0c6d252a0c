"""A record whose header has a name that is no text: Kafka takes it, and Python's client can't write it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path

import confluent_kafka

_PRODUCER, _COPY = 0, 2
_END, _TOPIC, _PARTITION, _VALUE, _KEY, _FLAGS, _HEADER = 0, 1, 3, 4, 5, 7, 9
"""As in librdkafka's `rdkafka.h`."""


def send(bootstrap: str, topic: str, partitions: Iterable[int], headers: list[tuple[bytes, bytes]]) -> None:
    """One to each of these partitions, without a key."""
    kafka = _library()
    conf, reason = c_void_p(kafka.rd_kafka_conf_new()), ctypes.create_string_buffer(512)
    said = kafka.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap.encode(), reason, c_size_t(len(reason)))
    assert said == 0, reason.value
    producer = c_void_p(kafka.rd_kafka_new(_PRODUCER, conf, reason, c_size_t(len(reason))))
    assert producer, reason.value
    for partition in partitions:
        fields = [_TOPIC, c_char_p(topic.encode()), _PARTITION, c_int(partition), _FLAGS, _COPY, _VALUE]
        fields += [c_char_p(b"{}"), c_size_t(2)]
        for name, value in headers:
            fields += [_HEADER, c_char_p(name), c_char_p(value), c_size_t(len(value))]
        assert kafka.rd_kafka_producev(producer, *fields, _END) == 0
    assert kafka.rd_kafka_flush(producer, 30_000) == 0
    kafka.rd_kafka_destroy(producer)


def _library() -> ctypes.CDLL:
    """The one that Python's client has loaded."""
    assert confluent_kafka.libversion()
    (found,) = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "librdkafka" in line}
    library = ctypes.CDLL(found)
    library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = c_void_p
    return library
