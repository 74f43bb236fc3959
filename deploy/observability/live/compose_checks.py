"""Checks deploy/compose.yaml, as docker-compose resolves it. No container engine is needed.

compose_checks.py DOCKER_COMPOSE NATS_SERVER
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

FILE = pathlib.Path(__file__).resolve().parents[2] / "compose.yaml"
# Of the README.
DEMO_SECRET = "change-me"


def resolve(docker_compose, *arguments, **variables):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GRAFANA", "GROUNDLING"))}
    command = [docker_compose, "-f", FILE, "config", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**kept, **variables})


def check_service(name, service):
    image = service.get("image", "")
    if "build" not in service and (":" not in image or image.endswith(":latest")):
        yield f"{name}: {image!r} has no fixed version"
    check = service.get("healthcheck", {})
    if name != "setup" and "test" not in check and not check.get("disable"):
        yield f"{name}: no health check, and none is disabled with a reason"
    for port in service.get("ports", []):
        if port.get("host_ip") != "127.0.0.1":
            yield f"{name}: port {port['published']} is published on all addresses"
    for volume in service.get("volumes", []):
        if volume["type"] == "bind" and not pathlib.Path(volume["source"]).exists():
            yield f"{name}: {volume['source']} does not exist"
    for key, value in (service.get("environment") or {}).items():
        if any(word in key for word in ("SECRET", "PASSWORD", "TOKEN")) and value not in (DEMO_SECRET, "from-the-test"):
            yield f"{name}: {key} is written in the file"


def problems(docker_compose, nats_server):
    quiet = resolve(docker_compose, "-q", GRAFANA_PASSWORD="from-the-test")
    if quiet.returncode != 0:
        yield f"docker-compose config -q: {quiet.stderr.strip()}"
        return
    if resolve(docker_compose, "-q").returncode == 0:
        yield "Grafana gets a password that nobody has set"
    resolved = json.loads(resolve(docker_compose, "--format", "json", GRAFANA_PASSWORD="from-the-test").stdout)
    services = resolved["services"]
    for name, service in services.items():
        yield from check_service(name, service)
    if "-master.telemetry=false" not in services["store"]["command"]:
        yield "store: the telemetry of SeaweedFS is on"
    for identity in json.loads(resolved["configs"]["s3"]["content"])["identities"]:
        if identity["credentials"][0]["secretKey"] != DEMO_SECRET:
            yield f"the secret key of {identity['name']} is written in the file"
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write(resolved["configs"]["nats"]["content"].replace("/data", tempfile.gettempdir()))
        config.flush()
        checked = subprocess.run([nats_server, "-t", "-c", config.name], capture_output=True, text=True)
        if checked.returncode != 0:
            yield f"nats-server -t: {checked.stderr.strip()}"


def main():
    found = list(problems(*sys.argv[1:]))
    for problem in found:
        print(f"compose.yaml: {problem}", file=sys.stderr)
    print(f"compose.yaml: {len(found)} problems")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
