"""Process plumbing shared by both programs: logging, the stop signal, growing pauses, health and metrics over HTTP.

Knows nothing of PostgreSQL, Kafka or events.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

import structlog
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

log = structlog.get_logger(__name__)


def configure_logging(level: str = "INFO") -> None:
    """Event names with fields on standard error: JSON lines, or coloured columns on a terminal."""
    on_terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class Stop:
    """Whether the process was asked to stop (SIGTERM, SIGINT, or another part of it), and a way to wait for that."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def install(self) -> None:
        """Takes over SIGTERM and SIGINT. The second signal ends the process at once."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            del frame
            self._asked.set()
            signal.signal(number, signal.SIG_DFL)

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)

    def end_within(self, seconds: float) -> None:
        """Ends the process, exit code 0, so long after the stop was asked for, whatever does not come back by then.

        For programs that lose nothing when they are killed: what is not durable is done again by the next one.
        """

        def end() -> None:
            self._asked.wait()
            time.sleep(seconds)
            log.warning("stop.cut_short", after_s=seconds)
            os._exit(0)

        threading.Thread(target=end, name="end", daemon=True).start()

    def ask(self) -> None:
        self._asked.set()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        """Waits at most so long; True if the process is to stop."""
        return self._asked.wait(seconds)


class GrowingPause:
    """Pauses between tries: from `first` seconds, doubled up to `longest`, each with up to a fifth of jitter."""

    def __init__(self, first: float = 0.2, longest: float = 15.0) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def next(self) -> float:
        """Seconds to wait before the next try."""
        pause = self._next
        self._next = min(self._next * 2, self._longest)
        return pause * random.uniform(1.0, 1.2)  # noqa: S311  # jitter, not a secret

    def reset(self) -> None:
        """After a success: the next fault starts with the first pause again."""
        self._next = self._first


class Health:
    """Serves `/healthz` (200 or 503 with the reason), `/metrics` (Prometheus) and `/status` (JSON).

    `status` returns what the process knows of itself; its field `healthy` decides the answer of `/healthz`.
    """

    def __init__(self, host: str, port: int, status: Callable[[], dict[str, object]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # seconds for a client to send its request

            def do_GET(self) -> None:
                content_type = "application/json"
                code = 200
                if self.path == "/metrics":
                    body, content_type = generate_latest(REGISTRY), CONTENT_TYPE_LATEST
                elif self.path in ("/healthz", "/status"):
                    now = status()
                    body = json.dumps(now, default=str).encode()
                    code = 200 if self.path == "/status" or now.get("healthy") else 503
                else:
                    code, body = 404, b'{"error": "try /healthz, /metrics or /status"}'
                self.send_response(code)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Probes come every few seconds: not worth a line each."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port in use (a free one was taken if 0 was asked for)."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
