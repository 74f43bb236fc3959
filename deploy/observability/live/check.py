"""Runs every query of the dashboard and of the alerts against a real pool that a real Prometheus scrapes.

check.py PROGRAM RIG PROMETHEUS PROMTOOL: the groundling program, the folder of nats-server and weed, prometheus,
promtool. Only Python's standard library is needed.
"""

import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import nats_metrics
import static_checks
from pool import DEMO, ROOT, Pool, job, wait_until
from prometheus import Prometheus

FOLDER = ROOT / "deploy/observability"
GPU = "hw_* metrics need an NVIDIA GPU, and this test runs on the CPU"
INGEST = "no groundling ingest runs in this test"
# Panels and alerts that may have no data here, and why.
MAY_BE_EMPTY = {
    "GPU memory": GPU,
    "GPU power": GPU,
    "Energy per picture": GPU,
    "GPU errors": GPU,
    "GroundlingGpuErrors": GPU,
    "GroundlingEventsNotIngested": INGEST,
    "GroundlingEventsFailing": INGEST,
    "GroundlingEventRequestsRefused": INGEST,
}
# What is wrong in this test on purpose. The `for` of the alerts is too long for them to fire here.
TRUE_HERE = {"GroundlingPublishesFailing", "GroundlingStreamNearlyFull", "GroundlingStreamRefusesMessages", "GroundlingTelemetryExportFailing"}
ANNOTATIONS = "GROUNDLING_ANNOTATIONS"
LIMIT = 120


class Jobs:
    """Submits jobs and waits for their ends."""

    def __init__(self, pool):
        self._pool, self._scenes, self._number = pool, sorted((DEMO / "scenes").glob("*.jpg")), 0
        for scene in self._scenes:
            pool.upload(scene.name, scene.read_bytes())
        pool.upload("damaged.jpg", self._scenes[0].read_bytes()[:500])
        pool.upload("text.jpg", b"this is no picture")

    def submit(self, key=None, bucket="pictures", encoded=None):
        self._number += 1
        name = f"job-{self._number}"
        key = key or self._scenes[self._number % len(self._scenes)].name
        self._pool.nats.publish("groundling.jobs.scenes", encoded or job(name, key, bucket), name)

    def submit_failing(self):
        for key in ("damaged.jpg", "text.jpg", "no/such.jpg"):
            self.submit(key)
        self.submit(bucket="another-bucket")
        self.submit(encoded=b"\xff\xfe no protobuf")

    def wait(self):
        """Waits until every job has ended as an annotation or a failure."""

        def ended():
            nats = self._pool.nats
            return nats.messages(ANNOTATIONS) + nats.messages("GROUNDLING_FAILED") == self._number

        wait_until("jobs have not ended", LIMIT, ended)


def run_jobs(pool):
    """Jobs that succeed, fail and are retried: the store freezes, and then the annotations stream is full."""
    jobs = Jobs(pool)
    jobs.submit_failing()
    for _ in range(6):
        jobs.submit()
    jobs.wait()
    # A rate needs an increase between two scrapes, and a series begins with its first value.
    jobs.submit_failing()
    for _ in range(4):
        jobs.submit()
    jobs.wait()

    pool.store.signal(signal.SIGSTOP)
    for _ in range(8):
        jobs.submit()
    time.sleep(5)
    pool.store.signal(signal.SIGCONT)
    jobs.wait()

    config = pool.nats.api(f"STREAM.INFO.{ANNOTATIONS}")
    full = {**config["config"], "max_bytes": config["state"]["bytes"] + 100, "discard": "new"}
    pool.nats.api(f"STREAM.UPDATE.{ANNOTATIONS}", full)
    for _ in range(4):
        jobs.submit()
    wait_until("no message was refused", LIMIT, lambda: 'error_type="stream_full"' in pool.metrics())
    time.sleep(4)
    pool.nats.api(f"STREAM.UPDATE.{ANNOTATIONS}", config["config"])
    jobs.wait()
    time.sleep(3)


def substitute(expression, dashboard):
    """The expression as Grafana would send it, with "All" chosen for every list."""
    for variable in dashboard["templating"]["list"]:
        value = {"query": variable.get("allValue"), "textbox": variable["query"]}.get(variable["type"], "")
        expression = re.sub(rf"\$(\{{{variable['name']}\}}|{variable['name']}\b)", str(value), expression)
    return expression.replace("$__rate_interval", "10s")


def check_panels(prometheus, dashboard):
    problems, queries = [], 0
    for panel in static_checks.panels_of(dashboard):
        for target in panel["targets"]:
            queries += 1
            where = f"panel {panel['title']!r}, query {target['refId']}"
            try:
                series = prometheus.series(substitute(target["expr"], dashboard))
            except ValueError as error:
                problems.append(f"{where}: {error}")
                continue
            if not series and panel["title"] not in MAY_BE_EMPTY:
                problems.append(f"{where}: no data")
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                if any(label not in labels for labels in series):
                    problems.append(f"{where}: the legend shows {label}, which a series does not have")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
            if not prometheus.get(f"label/{label}/values", **{"match[]": substitute(metric, dashboard)}):
                problems.append(f"variable {variable['name']}: no values")
    return problems, queries


def check_rules(prometheus, known):
    problems, count = [], 0
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            count += 1
            name = rule["name"]
            if rule["health"] != "ok":
                problems.append(f"rule {name}: {rule['health']} {rule.get('lastError', '')}")
            holds = prometheus.series(rule["query"])
            if name in TRUE_HERE and not holds:
                problems.append(f"alert {name}: the condition was met in this test, and the expression returns nothing")
            # An expression that compares returns nothing if all is well, and also if a name or a label is wrong.
            for selector in re.findall(r"[a-z][a-z0-9_:]*(?:\{[^}]*\})?", rule["query"]):
                if selector.split("{")[0] in known and not prometheus.series(f"count({selector})"):
                    if name not in MAY_BE_EMPTY:
                        problems.append(f"rule {name}: no series matches {selector}")
    return problems, count


def check_scrape(promtool, scrape):
    checked = subprocess.run([promtool, "check", "metrics"], input=scrape, capture_output=True, text=True)
    return [f"promtool check metrics: {line}" for line in checked.stderr.splitlines()] or (
        ["promtool check metrics failed"] if checked.returncode else []
    )


def main():
    program, rig, prometheus_executable, promtool = (pathlib.Path(argument).absolute() for argument in sys.argv[1:])
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    workers = static_checks.worker_metrics()
    of_nats = {*nats_metrics.STREAM_METRICS, *nats_metrics.CONSUMER_METRICS}
    known = workers | of_nats | static_checks.OF_PROMETHEUS
    alerts, tests = ((FOLDER / name).read_text() for name in ("alerts.yaml", "alerts_test.yaml"))
    problems = static_checks.check_dashboard(dashboard, known)
    problems += static_checks.check_alerts(alerts, tests, (ROOT / "docs/runbook.md").read_text(), known)

    with tempfile.TemporaryDirectory(prefix="groundling-observability-") as folder:
        pool = Pool(program, rig, pathlib.Path(folder))
        try:
            worker = pool.start_worker()
            prometheus = Prometheus(pool, prometheus_executable, FOLDER, nats_metrics.serve(pool.monitoring))
            run_jobs(pool)
            found, queries = check_panels(prometheus, dashboard)
            problems += found
            found, rules = check_rules(prometheus, known)
            problems += found + check_scrape(promtool, pool.metrics())
            if not all(prometheus.targets_up()):
                problems.append("Prometheus cannot scrape all targets")
        except BaseException:
            for log in sorted(pool.home.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
            raise
        finally:
            pool.stop()
        if worker.stop() != 0:
            problems.append(f"the worker ended with {worker.stop()}")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{queries} queries of the dashboard and {rules} rules ran against a live pool; {len(problems)} problems")
    for name, reason in MAY_BE_EMPTY.items():
        print(f"may be empty: {name}: {reason}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
