#!/usr/bin/env bash
# Builds groundling and lets it show itself: 48 pictures through a NATS server, an S3 store and the model, all on this
# machine. Needs Rust, a C compiler and Python 3. Arguments go to groundling demo: deploy/demo.sh --out /tmp/demo
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

command -v cargo >/dev/null || {
    echo "demo: cargo was not found; install Rust from https://rustup.rs." >&2
    exit 1
}
# The program looks in the current folder, which can be any.
export GROUNDLING_RIG=${GROUNDLING_RIG:-$root/.rig}
export GROUNDLING_DEMO_DATA=${GROUNDLING_DEMO_DATA:-$root/crates/sandbox/demo}

"$root/deploy/install-tools.sh"
manifest=$root/Cargo.toml
cargo build --release --locked --manifest-path "$manifest" --package groundling
exec cargo run --quiet --release --locked --manifest-path "$manifest" --package groundling -- demo "$@"
