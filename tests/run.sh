#!/usr/bin/env bash
# Installs the servers, the Python client, the readers of exports and the browser that the tests run, where they are missing,
# then runs every test.
# Arguments go to cargo test: tests/run.sh -p worker
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

./deploy/install-tools.sh --client --loaders --postgres --browser
if [ $# -gt 0 ]; then
    exec cargo test --locked "$@"
fi
exec cargo test --workspace --locked
