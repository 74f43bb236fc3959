"""Real servers for the tests: nats-server, SeaweedFS and a worker with the demo's model, on free loopback ports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[3]
DEMO = Path(os.environ.get("GROUNDLING_DEMO_DATA", ROOT / "crates/sandbox/demo"))
RIG = Path(os.environ.get("GROUNDLING_RIG", ROOT / ".rig"))
BUCKET = "pictures"
#: Much longer than any step takes: it is reached only if something is lost.
DEADLINE = 120.0

Value = TypeVar("Value")


def groundling() -> str:
    """The program. check.sh sets the variable."""
    return os.environ["GROUNDLING_PROGRAM"]


def wait_for(what: str, probe: Callable[[], Value | None]) -> Value:
    """Polls until there is a value."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        value = probe()
        if value is not None:
            return value
        time.sleep(0.02)
    raise TimeoutError(f"{what} in {DEADLINE:.0f} s")


@dataclass
class NatsServer:
    """A nats-server with JetStream, which can be killed and started again on its port."""

    folder: Path
    #: Further lines of the configuration file.
    configuration: str = ""
    port: int = 0
    #: When the streams are written to the disk.
    sync_interval: str = "always"
    monitoring: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        configuration = self.folder / "nats.conf"
        configuration.write_text(
            f'listen: "127.0.0.1:{self.port or -1}"\nhttp: "127.0.0.1:-1"\n'
            f'ports_file_dir: "{self.folder}"\n'
            # By default the file store is limited by the free disk space, and streams reserve more on a full disk.
            f'jetstream {{ store_dir: "{self.folder}/store", max_file_store: 1TB,'
            f" sync_interval: {self.sync_interval} }}}}\n"
            f"{self.configuration}\n"
        )
        with (self.folder / "nats.log").open("ab") as log:
            process = subprocess.Popen([RIG / "bin/nats-server", "-c", configuration], stdout=log, stderr=log)
        self._process = process
        ports_file = self.folder / f"nats-server_{process.pid}.ports"

        def ports() -> dict[str, list[str]] | None:
            assert process.poll() is None, (self.folder / "nats.log").read_text()
            with contextlib.suppress(OSError, json.JSONDecodeError):
                read: dict[str, list[str]] = json.loads(ports_file.read_text())
                return read
            return None

        found = wait_for("the ports of nats-server", ports)
        self.port = int(found["nats"][0].rsplit(":", 1)[1])
        self.monitoring = found["monitoring"][0]
        wait_for("nats-server", lambda: _get(f"{self.monitoring}/healthz?js-enabled-only=true"))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def meta_leader(self) -> str:
        """The name of the server that creates the streams and consumers of the cluster."""
        leader: str = json.loads(_get(f"{self.monitoring}/jsz") or b"{}").get("meta_cluster", {}).get("leader", "")
        return leader


@contextlib.contextmanager
def cluster(folder: Path, size: int = 3) -> Iterator[dict[str, NatsServer]]:
    """Starts servers in a cluster, by name."""
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(size)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        ports = [int(listener.getsockname()[1]) for listener in listeners]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    nodes = {}
    for number, port in enumerate(ports):
        name = f"n{number}"
        (folder / name).mkdir()
        configuration = (
            f"server_name: {name}\n"
            f'cluster {{ name: tests, listen: "127.0.0.1:{port}", no_advertise: true, routes: [ {routes} ] }}'
        )
        # The tests of clusters kill processes, not machines, and store much.
        nodes[name] = NatsServer(folder / name, configuration, sync_interval="2m")
    try:
        # At once: JetStream is ready only when most servers run.
        with ThreadPoolExecutor() as starting:
            list(starting.map(NatsServer.start, nodes.values()))
        yield nodes
    finally:
        for node in nodes.values():
            node.kill()


def setup(nats: NatsServer, **environment: str) -> None:
    """Creates the streams with `groundling setup`."""
    run = subprocess.run(
        [groundling(), "setup"],
        env=_environment(nats) | environment,
        cwd=nats.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@dataclass
class Pool:
    """A NATS server, a store and a worker."""

    nats: NatsServer
    filer: str

    def upload(self, key: str, content: bytes) -> None:
        """Stores an object, without the S3 protocol."""
        request = urllib.request.Request(f"{self.filer}/buckets/{BUCKET}/{quote(key)}", data=content, method="PUT")
        with urllib.request.urlopen(request, timeout=10):
            pass


@contextlib.contextmanager
def pool(folder: Path) -> Iterator[Pool]:
    """Starts a pool in a folder."""
    nats = NatsServer(folder)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        nats.start()
        setup(nats)
        access = {"accessKey": "reader", "secretKey": "secret"}
        identity = {"name": "reader", "credentials": [access], "actions": [f"Read:{BUCKET}", f"List:{BUCKET}"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        ports = _free_ports()
        processes.append(_start_store(folder, ports))
        store = f"http://127.0.0.1:{ports['s3.port']}"
        started = Pool(nats, f"http://127.0.0.1:{ports['filer.port']}")
        wait_for("the store", lambda: _get(f"{store}/healthz"))
        wait_for("the bucket", lambda: _uploaded(started))
        worker = {
            "GROUNDLING__S3__ENDPOINT": store,
            "GROUNDLING__S3__PATH_STYLE": "true",
            "GROUNDLING__S3__ACCESS_KEY": access["accessKey"],
            "GROUNDLING__S3__SECRET_KEY": access["secretKey"],
            "GROUNDLING__S3__ALLOW": BUCKET,
            "GROUNDLING_MODEL": str(DEMO / "kosmos-2-emoji"),
        }
        environment = _environment(nats) | worker
        with (folder / "worker.log").open("wb") as log:
            processes.append(
                subprocess.Popen([groundling(), "worker"], env=environment, cwd=folder, stdout=log, stderr=log)
            )
        yield started
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        nats.kill()


def _environment(nats: NatsServer) -> dict[str, str]:
    # Without the settings of the caller's environment.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GROUNDLING")}
    return kept | {"GROUNDLING__NATS__URL": nats.url}


def _start_store(folder: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    command = [
        str(RIG / "bin/weed"),
        f"-logdir={folder}",
        "-logtostderr=true",
        "mini",
        f"-dir={folder / 'objects'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.config={folder / 's3.json'}",
        f"-bucket={BUCKET}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        # Otherwise both follow the free disk space, and on a disk that is almost full a new bucket gets no volumes.
        "-volume.max=200",
        "-master.volumeSizeLimitMB=128",
        "-master.telemetry=false",
        "-admin.ui=false",
        "-webdav=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    with (folder / "store.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def _free_ports() -> dict[str, int]:
    """A port for each of the store's listeners."""
    servers = ["s3", "master", "volume", "filer"]
    names = [f"{server}.port{kind}" for server in servers for kind in ("", ".grpc")]
    with contextlib.ExitStack() as held:

        def bind(port: int) -> int:
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", port))
            return int(listener.getsockname()[1])

        ports = {name: bind(0) for name in names}
        while True:
            admin = bind(0)
            # The maintenance worker expects the gRPC port of the admin server at this offset.
            with contextlib.suppress(OSError, OverflowError):
                return ports | {"admin.port": admin, "admin.port.grpc": bind(admin + 10_000)}


def _uploaded(started: Pool) -> bool | None:
    try:
        if _get(f"{started.filer}/buckets/{BUCKET}/") is None:
            return None
        started.upload("ready", b"ready")
    except OSError:
        return None
    return True


def _get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            content: bytes = response.read()
            return content
    except OSError:
        return None


def goldens(file: str) -> dict[str, dict[str, Any]]:
    """The reference's answers about a picture of the demo, by prompt."""
    entries = json.loads((DEMO / "scenes/goldens.json").read_text())
    return {entry["prompt"]: entry for entry in entries if entry["file"] == file}
