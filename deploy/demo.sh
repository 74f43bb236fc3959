#!/usr/bin/env bash
# Builds groundling and runs its demo: a worker annotates 48 pictures from an S3 store, with a NATS server as the queue,
# all on this machine. Needs Rust, a C compiler and Python 3.
# Arguments are passed to groundling demo: deploy/demo.sh --out /tmp/demo
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

command -v cargo >/dev/null || {
    echo "demo: cargo not found; install Rust from https://rustup.rs" >&2
    exit 1
}
# By default, groundling looks for both in the current directory.
export GROUNDLING_RIG=${GROUNDLING_RIG:-$root/.rig}
export GROUNDLING_DEMO_DATA=${GROUNDLING_DEMO_DATA:-$root/crates/sandbox/demo}

"$root/deploy/install-tools.sh"
# The build looks for nasm.
export PATH=$GROUNDLING_RIG/bin:$PATH
manifest=$root/Cargo.toml
cargo build --release --locked --manifest-path "$manifest" --package groundling
exec cargo run --quiet --release --locked --manifest-path "$manifest" --package groundling -- demo "$@"
