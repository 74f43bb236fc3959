"""A NATS server, an S3 store and a worker with the demo's model, as child processes on free ports of 127.0.0.1."""

import glob
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from nats_client import Nats

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEMO = ROOT / "crates/sandbox/demo"
BUCKET = "pictures"
KEYS = ("test", "test-secret")


class ProcessEnded(Exception):
    """A child process that should run has ended."""


def wait_until(what, limit, condition):
    """Waits until `condition()` is true, or raises `TimeoutError` after `limit` seconds. Errors of connections count as
    not yet true."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, RuntimeError):
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{what} after {limit} s")


def get(address, limit=10):
    """The body of an HTTP GET. Raises `OSError` for a status of 400 and above."""
    with urllib.request.urlopen(address, timeout=limit) as answer:
        return answer.read()


def is_ok(address):
    """Whether an HTTP GET succeeds; otherwise raises `OSError`."""
    get(address)
    return True


def free_ports(count):
    """Free ports; the last is 10000 above the one before it, as the maintenance worker of SeaweedFS expects."""
    while True:
        held = [socket.socket() for _ in range(count)]
        try:
            for one in held[:-1]:
                one.bind(("127.0.0.1", 0))
            ports = [one.getsockname()[1] for one in held[:-1]]
            if ports[-1] + 10_000 < 65_536:
                held[-1].bind(("127.0.0.1", ports[-1] + 10_000))
                return [*ports, ports[-1] + 10_000]
        except OSError:
            continue
        finally:
            for one in held:
                one.close()


class Process:
    """A child process whose output goes to `NAME.log` in `home`."""

    def __init__(self, name, command, home, **options):
        self.name, self.log = name, home / f"{name}.log"
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **options)

    def check(self):
        """Raises `ProcessEnded` if the process has ended."""
        if self._child.poll() is not None:
            raise ProcessEnded(f"{self.name} ended with {self._child.returncode}: {self.log.read_text()[-2000:]}")
        return True

    def signal(self, number):
        self._child.send_signal(number)

    def stop(self):
        """Terminates the process and returns its exit code."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGCONT)
            self._child.terminate()
            try:
                self._child.wait(20)
            except subprocess.TimeoutExpired:
                self._child.kill()
        return self._child.wait()


class Pool:
    """The servers and one worker. Everything lies in `home`."""

    def __init__(self, program, rig, home):
        self.home, self._program, self._rig = home, program, rig
        self._processes, self._store_ports = [], []
        try:
            self._start_servers()
        except BaseException:
            self.stop()
            raise

    def _start_servers(self):
        self._start_nats()
        for attempt in range(3):
            try:
                self._start_store()
                break
            except ProcessEnded:
                # Another program may have taken one of the ports.
                if attempt == 2:
                    raise
        self.health_port, self.collector_port = free_ports(3)[:2]
        self._settings = self.home / "groundling.toml"
        self._settings.write_text(self._settings_text())
        command = [self._program, "--settings", self._settings, "setup"]
        setup = subprocess.run(command, capture_output=True, text=True, env=self._environment())
        if setup.returncode != 0:
            raise RuntimeError(f"groundling setup: {setup.stderr}")
        self.nats = Nats(self._nats_port)

    def stop(self):
        for process in reversed(self._processes):
            process.stop()
        # SeaweedFS leaves its sockets there.
        for port in self._store_ports:
            for socket_file in glob.glob(f"/tmp/seaweedfs-*-{port}.sock"):
                os.unlink(socket_file)

    def start(self, name, command, **options):
        """Starts a process that `stop` ends."""
        process = Process(name, command, self.home, **options)
        self._processes.append(process)
        return process

    def start_worker(self):
        command = [self._program, "--settings", self._settings, "worker"]
        worker = self.start("worker", command, env=self._environment())
        ready = f"http://127.0.0.1:{self.health_port}/readyz"
        wait_until("the worker is not ready", 60, lambda: worker.check() and is_ok(ready))
        return worker

    def metrics(self):
        return get(f"http://127.0.0.1:{self.health_port}/metrics").decode()

    def upload(self, key, content):
        """Uploads an object through the filer, which needs no signature."""
        address = f"http://127.0.0.1:{self._filer_port}/buckets/{BUCKET}/{key}"
        urllib.request.urlopen(urllib.request.Request(address, content, method="PUT"), timeout=10).close()

    def _start_nats(self):
        # By default the file store is limited by the free disk space, and the streams would not fit on a full disk.
        configuration = self.home / "nats.conf"
        configuration.write_text(f'jetstream {{ store_dir: "{self.home}/js", max_file_store: 1TB }}\n')
        command = [self._rig / "nats-server", "-a", "127.0.0.1", "-p", "-1", "-m", "-1", "-c", configuration]
        server = self.start("nats", [*command, "--ports_file_dir", self.home])
        wait_until("the NATS server is not up", 30, lambda: server.check() and self._ports_file())
        ports = self._ports_file()
        self._nats_port = int(ports["nats"][0].rsplit(":", 1)[1])
        self.monitoring = ports["monitoring"][0]
        wait_until("JetStream is not up", 30, lambda: is_ok(f"{self.monitoring}/healthz?js-enabled-only=true"))

    def _ports_file(self):
        for path in glob.glob(str(self.home / "nats-server_*.ports")):
            try:
                return json.loads(pathlib.Path(path).read_text())
            except ValueError:
                return None
        return None

    def _start_store(self):
        identity = {"accessKey": KEYS[0], "secretKey": KEYS[1]}
        identities = [{"name": "test", "credentials": [identity], "actions": ["Admin", "Read", "List", "Write"]}]
        (self.home / "s3.json").write_text(json.dumps({"identities": identities}))
        names = ["s3", "master", "volume", "filer", "admin"]
        ports = free_ports(10)
        flags = [flag for name in names for flag in (f"{name}.port", f"{name}.port.grpc")]
        self.s3_port, self._filer_port = ports[0], ports[6]
        self._store_ports += ports
        command = [
            *[self._rig / "weed", f"-logdir={self.home}", "-logtostderr=true", "mini", f"-dir={self.home / 'store'}"],
            *["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={self.home / 's3.json'}", f"-bucket={BUCKET}"],
            # Otherwise both follow the free disk space, and on a disk that is almost full a new bucket gets no volumes.
            *["-volume.max=200", "-master.volumeSizeLimitMB=128"],
            *["-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"],
            f"-filer.localSocket={self.home / 'filer.sock'}",
            *[f"-{flag}={port}" for flag, port in zip(flags, ports, strict=True)],
        ]
        self.store = self.start("store", command, cwd=self.home)
        health = f"http://127.0.0.1:{self.s3_port}/healthz"
        wait_until("the store is not up", 60, lambda: self.store.check() and is_ok(health))
        bucket = f"http://127.0.0.1:{self._filer_port}/buckets/{BUCKET}/"
        wait_until("the store has no bucket", 60, lambda: is_ok(bucket))
        wait_until("the store is not writable", 60, lambda: self.upload("ready", b"ready") is None)

    def _environment(self):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GROUNDLING", "OTEL", "RUST"))}
        return {**kept, "RUST_LOG": "info"}

    def _settings_text(self):
        # Nothing listens at the collector's address, so that failed exports are counted too.
        return f"""
[model]
path = "{DEMO / 'kosmos-2-emoji'}"
device = "cpu"

[nats]
url = "nats://127.0.0.1:{self._nats_port}"

[s3]
endpoint = "http://127.0.0.1:{self.s3_port}"
path_style = true
access_key = "{KEYS[0]}"
secret_key = "{KEYS[1]}"
allow = ["{BUCKET}"]
read_timeout = "1s"
operation_timeout = "2s"
attempts = 1

[worker]
health_address = "127.0.0.1:{self.health_port}"
max_retry_delay = "2s"
release_own_limits_for = "3s"
publish_timeout = "2s"

[telemetry]
endpoint = "http://127.0.0.1:{self.collector_port}"
metrics_interval = "1s"
timeout = "1s"
"""


def _field(number, content):
    """A length-delimited protobuf field."""
    size, varint = len(content), bytearray()
    while size > 0x7F:
        varint.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *varint, size]) + content


def job(job_id, key, bucket=BUCKET, dataset="scenes"):
    """An encoded `ImageJob` for a brief caption of an object."""
    picture = _field(1, bucket.encode()) + _field(2, key.encode())
    caption = _field(1, b"caption") + _field(2, b"")
    return _field(1, job_id.encode()) + _field(2, dataset.encode()) + _field(3, picture) + _field(5, caption)
