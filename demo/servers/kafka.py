"""Apache Kafka: a broker given by its address, or one of our own as a local process fetched with Maven.

A local broker is one KRaft node (broker and controller) on loopback that keeps its port and its data over stop and
start.
"""

import base64
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

from confluent_kafka.admin import AdminClient

from demo.servers.guardian import GuardedFolder
from demo.servers.maven import CACHE, jars_of, require_java
from demo.servers.starting import ServersUnavailable, free_port, last_lines, listens, wait_until

VERSION = "4.1.0"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
PORT_TAKEN = "Address already in use"

# The session's time is how long a killed broker is kept from coming back. The rest is what one node needs, and no
# waiting for further members when a consumer group forms.
SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
broker.heartbeat.interval.ms=1000
broker.session.timeout.ms=4000
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
"""
LOGGING = """\
rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %c{1}: %m%n
"""


class KafkaServer:
    """A broker reached by its address. This class itself is one that others run: it cannot be stopped."""

    log: Path | None = None

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        """host:port, as `bootstrap.servers` wants it."""

    def start(self) -> None:
        """Start it again, on the same port and data; returns when it answers."""
        self._refuse()

    def stop(self) -> None:
        """Stop it in order."""
        self._refuse()

    def kill(self) -> None:
        """Crash it (SIGKILL)."""
        self._refuse()

    def freeze(self) -> None:
        """Stop its clock (SIGSTOP): connections stay open and nothing is answered."""
        self._refuse()

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        self._refuse()

    def restart(self) -> None:
        """Stop it in order and start it again."""
        self.stop()
        self.start()

    def log_text(self) -> str:
        """What the broker logged; empty for a broker that others run."""
        return ""

    def _refuse(self) -> None:
        raise RuntimeError(f"the Kafka at {self.bootstrap} was given by its address; it is not ours to stop")


class LocalKafka(KafkaServer):
    """A broker of our own: made, started and ended here."""

    log: Path

    def __init__(self, folder: GuardedFolder, jars: Path, *, brief: bool = False) -> None:
        self._folder, self._brief = folder, brief
        self._jars = jars
        self._home = folder.path / "kafka"
        self._process: subprocess.Popen[bytes] | None = None
        self.log = self._home / "log"
        for is_last in (False, False, True):
            self._port = free_port()
            super().__init__(f"127.0.0.1:{self._port}")
            self._format()
            try:
                self.start()
            except ServersUnavailable:
                if is_last or PORT_TAKEN not in self.log_text():
                    raise
                shutil.rmtree(self._home)  # with other ports then: a JVM takes seconds to come to them
            else:
                return

    def _format(self) -> None:
        self._home.mkdir(mode=0o700)
        settings = SETTINGS.format(port=self._port, controller_port=free_port(), data=self._home / "data")
        (self._home / "server.properties").write_text(settings)
        (self._home / "log4j2.properties").write_text(LOGGING)
        cluster = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        if cluster.startswith("-"):  # the tool would take it for an option
            cluster = "A" + cluster[1:]
        command = self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", self._home / "server.properties")
        if self._folder.run(command, log=self.log, timeout=START_SECONDS) != 0:
            raise ServersUnavailable(f"Kafka's storage could not be made: {last_lines(self.log)}")

    def _java(self, main: str, *args: str | Path) -> list[str | Path]:
        logging = f"-Dlog4j2.configurationFile={self._home / 'log4j2.properties'}"
        # A small heap and the serial collector start fastest and leave the machine to what is tested.
        small = ["-Xmx512m", "-XX:+UseSerialGC", "-Xshare:auto"]
        # C2 takes more time to compile than some minutes give back: 30 s of CPU against 18 for seven tests.
        small += ["-XX:TieredStopAtLevel=1"] if self._brief else []
        # A killed JVM leaves its unpacked libraries and its counters behind: in our folder they go with it.
        tidy = [f"-Djava.io.tmpdir={self._home}", "-XX:-UsePerfData"]
        return ["java", *small, *tidy, logging, "-cp", f"{self._jars}/*", main, *args]

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        command = self._java("kafka.Kafka", self._home / "server.properties")
        self._process = self._folder.spawn(command, log=self.log)
        wait_until(self._answers, f"Kafka on {self.bootstrap} answers", START_SECONDS)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ServersUnavailable(f"Kafka did not start: {last_lines(self.log)}")
        return listens(self._port) and has_broker(self.bootstrap)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        self.thaw()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


def has_broker(bootstrap: str) -> bool:
    """Whether a broker answers there within two seconds."""
    from confluent_kafka import KafkaException

    try:
        admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "error_cb": lambda _: None})
        return bool(admin.list_topics(timeout=2).brokers)
    except KafkaException:
        return False


def kafka_jars(folder: GuardedFolder) -> Path:
    """The folder with the broker's jars; fetched when they are not there yet."""
    require_java()
    return jars_of(
        folder, Path(__file__).with_name("kafka-pom.xml"), CACHE / "kafka" / VERSION, f"Apache Kafka {VERSION}"
    )
