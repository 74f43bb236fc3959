#!/usr/bin/env bash
# Checks the chart with helm 3 and 4 against Kubernetes' schemas and against the program, and the container files with hadolint.
# helm/test.sh --update writes the rendered files of helm/golden, and what values.schema.json and files/alerts.yaml take
# from the program and from deploy/observability. Further arguments choose tests by a part of their name: helm/test.sh settings
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

./deploy/install-tools.sh --helm
export GROUNDLING_RIG=${GROUNDLING_RIG:-$PWD/.rig}
export GROUNDLING_BIN=${GROUNDLING_BIN:-${CARGO_TARGET_DIR:-$PWD/target}/debug/groundling}
[ -x "$GROUNDLING_BIN" ] || {
    echo "helm/test.sh: $GROUNDLING_BIN not found; run cargo build --package groundling, or set GROUNDLING_BIN" >&2
    exit 1
}
export PYTHONDONTWRITEBYTECODE=1
python=$GROUNDLING_RIG/helm/bin/python

if [ "${1:-}" = --update ]; then
    exec "$python" helm/tests/update.py
fi
arguments=()
for name in "$@"; do
    arguments+=(-k "$name")
done
exec "$python" -m unittest discover --start-directory helm/tests "${arguments[@]}"
