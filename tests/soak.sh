#!/usr/bin/env bash
# The conservation test for as long as one likes: jobs under faults, and a reckoning. The last line of output is one
# JSON object: jobs, faults, annotations, dead_letters, lost, duplicates, wrong_reason, seconds. Logs: target/soak.
#
#   tests/soak.sh --jobs 10000 --faults 200 --seed 1             delivery alone: a stub in the model's place
#   tests/soak.sh --jobs 10000 --faults 200 --seed 1 --nodes 3   a cluster of three, three copies of each stream
#   tests/soak.sh --jobs 300 --faults 2 --seed 1 --nodes 3 --only roll    no fault but this one: a rolling restart
#   tests/soak.sh --jobs 300 --faults 4 --seed 1 --only fill-stream       the same for any other; --help names them
#   tests/soak.sh --jobs 500 --faults 50 --seed 1 --real         `groundling worker` with the small model
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_BUILD_JOBS=${CARGO_BUILD_JOBS:-2}
./deploy/install-tools.sh >&2
# With the features of the whole workspace, as the tests build it: nothing is built twice.
cargo build --quiet --locked --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/debug/soak" run "$@"
