#!/usr/bin/env bash
# Tests the dashboard, the alerts and the compose file. promtool checks the rules and runs their tests; then a worker
# with the demo's model processes jobs, good and bad, between a real NATS server and S3 store, a real Prometheus scrapes
# it, and every query of the dashboard and of the alerts runs against that Prometheus. Takes about a minute.
#
#   deploy/observability/test.sh [GROUNDLING]
#
# GROUNDLING is the program, by default the one that `cargo build` or `cargo test --workspace` has built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

rig=$(realpath -m "${GROUNDLING_RIG:-.rig}")
program=${1:-${CARGO_TARGET_DIR:-target}/debug/groundling}
[ -x "$program" ] || {
    echo "test.sh: $program not found; build it with: cargo build --package groundling" >&2
    exit 1
}
# Everything else is an error; only Prometheus may be missing, since it cannot be pinned by hash.
if ! ./deploy/install-tools.sh --prometheus; then
    [ -x "$rig/bin/docker-compose" ] && [ -x "$rig/bin/weed" ] || exit 1
    echo "SKIPPED: the dashboard and the alerts are not tested, because Prometheus could not be installed (reason above)" >&2
fi

python3 deploy/observability/live/compose_checks.py "$rig/bin/docker-compose" "$rig/bin/nats-server"
[ -x "$rig/bin/promtool" ] || exit 0
(
    cd deploy/observability
    "$rig/bin/promtool" check rules alerts.yaml
    "$rig/bin/promtool" check config prometheus.yaml
    "$rig/bin/promtool" test rules alerts_test.yaml
)
exec python3 deploy/observability/live/check.py "$program" "$rig/bin" "$rig/bin/prometheus" "$rig/bin/promtool"
