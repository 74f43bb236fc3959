#!/usr/bin/env bash
# The soak test: submits jobs, injects faults, and checks that every job ends exactly once. The last line of output is
# one JSON object: jobs, faults, annotations, failures, lost, duplicates, stored_again, unexpected, seconds.
# Logs: target/soak.
#
#   tests/soak.sh --jobs 10000 --faults 200 --seed 1             a stub in place of the model
#   tests/soak.sh --jobs 10000 --faults 200 --seed 1 --nodes 3   a cluster of three servers, three replicas of each stream
#   tests/soak.sh --jobs 300 --faults 2 --seed 1 --nodes 3 --only roll    only rolling restarts
#   tests/soak.sh --jobs 300 --faults 4 --seed 1 --only fill-stream       only full streams; --help lists all faults
#   tests/soak.sh --jobs 500 --faults 50 --seed 1 --real         `groundling worker` with the small model
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_BUILD_JOBS=${CARGO_BUILD_JOBS:-2}
./deploy/install-tools.sh >&2
# Builds the whole workspace, like the tests, so that nothing is built twice with other features.
cargo build --quiet --locked --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/debug/soak" run "$@"
