"""The chart against the program and a NATS server."""

import contextlib
import json
import pathlib
import re
import socket
import subprocess
import tempfile
import time
import unittest

from chart import CASES, RIG, of_kind, pods, program

AUTHORITY = pathlib.Path(__file__).parent / "authority.pem"


def settings_problem(text):
    """What the program says about a settings file; `None` if it accepts it."""
    with tempfile.TemporaryDirectory() as directory:
        # The files of Secrets must exist.
        for path in re.findall('"/etc/groundling-secrets/([^"]+)"', text):
            secret = pathlib.Path(directory) / path
            secret.parent.mkdir(exist_ok=True)
            secret.write_text(AUTHORITY.read_text())
        file = pathlib.Path(directory) / "groundling.toml"
        file.write_text(text.replace("/etc/groundling-secrets/", f"{directory}/"))
        if program("check", "--help").returncode == 0:
            result = program("check", str(file))
            return None if result.returncode == 0 else result.stdout + result.stderr
        # The worker validates its settings before it looks for the model. It has no GPU here, and no collector.
        model = ("--model", f"{directory}/none", "--device", "cpu", "--dtype", "f32")
        result = program("worker", "--settings", str(file), *model, OTEL_SDK_DISABLED="true")
        return None if result.returncode == 1 and "model" in result.stderr else result.stdout + result.stderr


class Settings(unittest.TestCase):
    def test_the_program_accepts_every_rendered_settings_file(self):
        for case in CASES:
            for found in of_kind(case, "ConfigMap"):
                with self.subTest(case=case.name, name=found["metadata"]["name"]):
                    self.assertIsNone(settings_problem(found["data"]["groundling.toml"]))

    def test_a_settings_file_with_a_fault_is_not_accepted(self):
        for fault in ('[s3]\nallow = ["a"]\nregions = "x"\n', '[s3]\nallow = []\n', '[worker]\nslots = "5"\n'):
            self.assertIsNotNone(settings_problem(fault), fault)

    def test_the_program_knows_the_variables_that_the_pods_set(self):
        names = {
            variable["name"]
            for case in CASES
            for _, spec in pods(case)
            for found in spec["containers"]
            for variable in found["env"]
            if variable["name"].startswith("GROUNDLING__")
        }
        self.assertGreater(len(names), 5)
        for name in sorted(names | {"GROUNDLING__NATS__PASWORD"}):
            result = program("worker", "--model", "/none", "--device", "cpu", **{name: "x"})
            self.assertEqual("unknown setting" in result.stderr, name == "GROUNDLING__NATS__PASWORD", result.stderr)

    def test_the_program_has_the_commands_and_flags_that_the_pods_use(self):
        commands = {tuple(found["args"]) for case in CASES for _, spec in pods(case) for found in spec["containers"]}
        self.assertEqual({command[0] for command in commands}, {"worker", "setup", "scaler", "ingest"})
        for command in sorted(commands):
            with self.subTest(command=command):
                result = program(*command, "--help")
                self.assertEqual(result.returncode, 0, result.stderr)


class Nack(unittest.TestCase):
    def test_streams_and_consumers_of_nack_are_those_that_setup_wants(self):
        [case] = [case for case in CASES if case.stem == "nack"]
        # Workers do not get the rules of ingest; the test and setup do.
        [settings] = [found for found in of_kind(case, "ConfigMap") if found["metadata"]["name"].endswith("-test")]
        with nats_server() as (address, client):
            for found in of_kind(case, "Stream"):
                client.create(f"STREAM.CREATE.{found['spec']['name']}", stream_config(found["spec"]))
            for found in of_kind(case, "Consumer"):
                config = consumer_config(found["spec"])
                request = {"stream_name": found["spec"]["streamName"], "config": config, "action": "create"}
                subject = f"CONSUMER.CREATE.{found['spec']['streamName']}.{config['durable_name']}"
                client.create(subject, request)
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(settings["data"]["groundling.toml"])
                file.flush()
                result = program("setup", "--migrate", "--settings", file.name, GROUNDLING__NATS__URL=f"nats://{address}")
        self.assertEqual(result.returncode, 0, result.stderr)
        migrated, *found = result.stdout.splitlines()
        self.assertIn("stream GROUNDLING_JOBS: allow atomic batches", migrated)
        self.assertEqual([line.split()[0] for line in found], ["found"] * 13, result.stdout)


def nanoseconds(duration):
    """A duration in milliseconds, as the chart writes all of NACK's."""
    return int(duration.removesuffix("ms")) * 1_000_000 if duration else 0


def stream_config(spec):
    """The stream that NACK creates for an object. The defaults are those of its definition."""
    return {
        "name": spec["name"],
        "subjects": spec["subjects"],
        "storage": spec["storage"],
        "num_replicas": spec["replicas"],
        "retention": spec["retention"],
        "discard": spec["discard"],
        "duplicate_window": nanoseconds(spec["duplicateWindow"]),
        "max_age": nanoseconds(spec.get("maxAge")),
        "max_bytes": spec.get("maxBytes", -1),
        "max_msg_size": spec.get("maxMsgSize", -1),
        "max_msgs_per_subject": spec.get("maxMsgsPerSubject", 0),
        "allow_direct": spec.get("allowDirect", False),
        "compression": spec.get("compression", "none"),
        "allow_msg_ttl": spec.get("allowMsgTtl", False),
    }


def consumer_config(spec):
    """The consumer that NACK creates for an object."""
    return {
        "durable_name": spec["durableName"],
        "deliver_policy": spec["deliverPolicy"],
        "ack_policy": spec["ackPolicy"],
        "ack_wait": nanoseconds(spec["ackWait"]),
        "max_deliver": spec["maxDeliver"],
        "max_ack_pending": spec["maxAckPending"],
        "filter_subject": spec.get("filterSubject", ""),
        "replay_policy": "instant",
    }


class Client:
    """As much of NATS' protocol as requests to JetStream need."""

    def __init__(self, address):
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.lines = self.socket.makefile("rb")
        self.lines.readline()
        self.socket.sendall(b'CONNECT {"verbose":false}\r\nSUB replies 1\r\n')

    def create(self, subject, body):
        """Sends a request, which must succeed."""
        payload = json.dumps(body).encode()
        head = f"PUB $JS.API.{subject} replies {len(payload)}\r\n"
        self.socket.sendall(head.encode() + payload + b"\r\n")
        while not (line := self.lines.readline()).startswith(b"MSG "):
            if line == b"PING\r\n":
                self.socket.sendall(b"PONG\r\n")
            elif not line or line.startswith(b"-ERR"):
                raise AssertionError(f"the server answered {line!r}")
        response = json.loads(self.lines.read(int(line.split()[-1]) + 2))
        if "error" in response:
            raise AssertionError(f"{subject}: {response['error']}")


@contextlib.contextmanager
def nats_server():
    """A server on a free port: its address and a client."""
    with tempfile.TemporaryDirectory() as directory:
        configuration = pathlib.Path(directory) / "nats.conf"
        # By default the file store is limited by the free disk space, and the streams would not fit on a full disk.
        configuration.write_text(f'jetstream {{ store_dir: "{directory}/js", max_file_store: 1TB }}\n')
        arguments = ["-a", "127.0.0.1", "-p", "-1", "-c", configuration, "--ports_file_dir", directory]
        log = open(f"{directory}/log", "wb")
        server = subprocess.Popen([RIG / "bin/nats-server", *arguments], stdout=log, stderr=log)
        try:
            ports = pathlib.Path(directory) / f"nats-server_{server.pid}.ports"
            deadline = time.monotonic() + 30
            while not (ports.exists() and ports.read_text().strip()):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the server did not start: {pathlib.Path(log.name).read_text()}")
                time.sleep(0.05)
            address = json.loads(ports.read_text())["nats"][0].removeprefix("nats://")
            client = Client(address)
            yield address, client
            client.socket.close()
        finally:
            server.terminate()
            server.wait()
            log.close()


if __name__ == "__main__":
    unittest.main()
