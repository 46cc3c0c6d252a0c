"""Java programs as Maven has them, fetched once into `.cache` of this repository.

Nothing is written to the user's own ~/.m2. What can't be had raises `ServersUnavailable` with one line for the user.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from demo.servers.guardian import GuardedFolder
from demo.servers.starting import ServersUnavailable, last_lines

CACHE = Path(__file__).resolve().parents[2] / ".cache"
FETCH_SECONDS = 600.0
INSTALL = "install Docker and start it, or install Java 17+ and Maven (Debian: apt install default-jre-headless maven)"


def jars_of(folder: GuardedFolder, pom: Path, jars: Path, title: str) -> Path:
    """The folder `jars` with what the POM depends on; fetched when it is not there yet."""
    if not jars.exists():
        if shutil.which("mvn") is None:
            raise ServersUnavailable(f"{title} can't be fetched, Maven (mvn) is not installed: {INSTALL}")
        jars.parent.mkdir(parents=True, exist_ok=True)
        with (jars.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once fetch once
            if not jars.exists():
                _fetch(folder, pom, jars, title)
    return jars


def _fetch(folder: GuardedFolder, pom: Path, jars: Path, title: str) -> None:
    print(f"fetching {title} with Maven into {jars} (once, some 45 MB)", file=sys.stderr)
    log = folder.path / "maven.log"
    staging = folder.path / "jars"
    command: list[str | Path] = ["mvn", "-q", "-B", "-f", pom, f"-Dmaven.repo.local={CACHE / 'm2'}"]
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={staging}"]
    try:
        code = folder.run([*command, *goal], log=log, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise ServersUnavailable(
            f"Maven did not fetch {title} within {FETCH_SECONDS:g} s: is the network slow?"
        ) from None
    if code != 0:
        raise ServersUnavailable(f"Maven could not fetch {title} (it needs the network once): {_maven_error(log)}")
    arriving = jars.with_name(f"{jars.name}.{os.getpid()}")
    shutil.move(staging, arriving)
    arriving.rename(jars)  # whole or not at all


def _maven_error(log: Path) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    return next((line for line in plain.splitlines() if line.startswith("[ERROR]")), last_lines(log, 1))


def require_java() -> None:
    """Java 17 or later, as Kafka 4 wants it."""
    if shutil.which("java") is None:
        raise ServersUnavailable(f"no Docker daemon answers and Java is not installed: {INSTALL}")
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < 17:
        raise ServersUnavailable(f"no Docker daemon answers and Java is older than 17: {INSTALL}")
