"""Serves the metrics of prometheus-nats-exporter 0.20 that the dashboard and the alerts use.

The exporter is a Go program that no package registry of the tests ships, so this takes its place: it reads the same
`/jsz?consumers=true&config=true&raft=true` of the NATS server and gives the same names and labels.
"""

import http.server
import json
import threading
import urllib.request

STREAM_METRICS = {
    "jetstream_stream_total_messages": lambda stream: stream["state"]["messages"],
    "jetstream_stream_total_bytes": lambda stream: stream["state"]["bytes"],
    "jetstream_stream_limit_bytes": lambda stream: stream["config"].get("max_bytes", 0),
    "jetstream_stream_last_seq": lambda stream: stream["state"]["last_seq"],
}
CONSUMER_METRICS = {
    "jetstream_consumer_delivered_consumer_seq": lambda consumer: consumer["delivered"]["consumer_seq"],
    "jetstream_consumer_num_ack_pending": lambda consumer: consumer["num_ack_pending"],
    "jetstream_consumer_num_redelivered": lambda consumer: consumer["num_redelivered"],
    "jetstream_consumer_num_waiting": lambda consumer: consumer["num_waiting"],
    "jetstream_consumer_num_pending": lambda consumer: consumer["num_pending"],
}


def _sample(name, labels, value):
    pairs = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{pairs}}} {value}"


def _server_labels(jsz, varz):
    meta = jsz.get("meta_cluster") or {}
    return {
        "server_id": jsz["server_id"],
        "server_name": varz["server_name"],
        "cluster": meta.get("name", ""),
        "domain": jsz["config"].get("domain", ""),
        "meta_leader": meta.get("leader", ""),
        "is_meta_leader": str(not meta or meta.get("leader") == varz["server_name"]).lower(),
    }


def _leader(of, varz):
    cluster = of.get("cluster") or {}
    leader = cluster.get("leader", "")
    return leader, str(not cluster or leader == varz["server_name"]).lower()


def render(jsz, varz):
    """The metrics of the server's answers, in Prometheus' text format."""
    samples = {name: [] for name in (*STREAM_METRICS, *CONSUMER_METRICS)}
    for account in jsz.get("account_details", []):
        for stream in account.get("stream_detail", []):
            leader, is_leader = _leader(stream, varz)
            labels = {
                **_server_labels(jsz, varz),
                "account": account["name"],
                "account_name": account["name"],
                "account_id": account["id"],
                "stream_name": stream["name"],
                "stream_leader": leader,
                "is_stream_leader": is_leader,
                "stream_raft_group": stream.get("stream_raft_group", ""),
            }
            for name, value in STREAM_METRICS.items():
                samples[name].append(_sample(name, labels, value(stream)))
            for consumer in stream.get("consumer_detail", []):
                leader, is_leader = _leader(consumer, varz)
                of_consumer = {
                    **labels,
                    "consumer_name": consumer["name"],
                    "consumer_leader": leader,
                    "is_consumer_leader": is_leader,
                    "consumer_desc": consumer.get("config", {}).get("description", ""),
                }
                for name, value in CONSUMER_METRICS.items():
                    samples[name].append(_sample(name, of_consumer, value(consumer)))
    lines = []
    for name, of_name in samples.items():
        lines += [f"# TYPE {name} gauge", *of_name]
    return "\n".join(lines) + "\n"


def serve(monitoring):
    """Serves the metrics of the server whose monitoring address is `monitoring`, and returns the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            try:
                answers = []
                for path in ("/jsz?consumers=true&config=true&raft=true", "/varz"):
                    with urllib.request.urlopen(monitoring + path, timeout=5) as answer:
                        answers.append(json.load(answer))
                body, status = render(*answers).encode(), 200
            except (OSError, KeyError, ValueError) as error:
                body, status = f"{error!r}\n".encode(), 502
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]
