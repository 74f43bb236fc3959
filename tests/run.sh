#!/usr/bin/env bash
# Installs the servers, the Python client, the readers of exports, the browser and cargo-nextest, where they are missing, then
# runs every test. Settings of the runner: .config/nextest.toml.
# With arguments, they go to `cargo nextest run`: tests/run.sh -p worker
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

./deploy/install-tools.sh --nextest --client --loaders --postgres --browser
export PATH=${GROUNDLING_RIG:-$PWD/.rig}/bin:$PATH
if [ $# -gt 0 ]; then
    exec cargo nextest run --locked "$@"
fi
cargo nextest run --workspace --locked
# nextest does not run the examples in the documentation.
exec cargo test --workspace --locked --doc
