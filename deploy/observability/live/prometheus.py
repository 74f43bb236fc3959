"""A Prometheus server that scrapes a pool, and queries to it."""

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request

from pool import free_ports, is_ok, wait_until


class Prometheus:
    """Runs with `deploy/observability/prometheus.yaml`, with other targets and an interval of one second."""

    def __init__(self, pool, executable, folder, exporter_port):
        config = (folder / "prometheus.yaml").read_text()
        for before, after in (
            ("worker:8080", f"127.0.0.1:{pool.health_port}"),
            ("nats-exporter:7777", f"127.0.0.1:{exporter_port}"),
            ("scrape_interval: 15s", "scrape_interval: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
        ):
            if before not in config:
                raise RuntimeError(f"prometheus.yaml has no {before!r}, which this test replaces")
            config = config.replace(before, after)
        (pool.home / "prometheus.yaml").write_text(config)
        (pool.home / "alerts.yaml").write_text((folder / "alerts.yaml").read_text())
        self._base = f"http://127.0.0.1:{free_ports(3)[0]}"
        self.started = time.time()
        command = [
            executable,
            f"--config.file={pool.home / 'prometheus.yaml'}",
            f"--storage.tsdb.path={pool.home / 'tsdb'}",
            f"--web.listen-address={self._base.removeprefix('http://')}",
        ]
        server = pool.start("prometheus", command)
        wait_until("Prometheus is not ready", 30, lambda: server.check() and is_ok(f"{self._base}/-/ready"))
        wait_until("Prometheus has not scraped all targets", 30, lambda: all(self.targets_up()))

    def targets_up(self):
        states = [target["health"] == "up" for target in self.get("targets")["activeTargets"]]
        return states or [False]

    def get(self, path, **parameters):
        """The data of an answer. Raises `ValueError` with Prometheus' own words if it reports an error."""
        address = f"{self._base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                answer = json.load(answer)
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error).get("error", str(error))) from None
        if answer.get("warnings"):
            raise ValueError("; ".join(answer["warnings"]))
        return answer["data"]

    def series(self, expression):
        """The labels of the series with at least one number since the start; +Inf counts, NaN does not."""
        data = self.get("query_range", query=expression, start=self.started, end=time.time(), step="1s")
        return [
            series["metric"]
            for series in data["result"]
            if any(not math.isnan(float(value)) for _, value in series["values"])
        ]
