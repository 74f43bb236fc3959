#!/usr/bin/env bash
# Installs the servers, the Python client and the readers of exports that the tests run, where they are missing, then runs
# every test.
# Arguments go to cargo test: tests/run.sh -p worker
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

./deploy/install-tools.sh --client --loaders --postgres
if [ $# -gt 0 ]; then
    exec cargo test --locked "$@"
fi
exec cargo test --workspace --locked
