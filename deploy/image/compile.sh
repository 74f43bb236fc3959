#!/usr/bin/env bash
# Builds the program for an image, with the list of its dependencies inside (cargo-auditable), and collects their licences.
# Arguments go to cargo: deploy/image/compile.sh --features cuda
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=${CARGO_TARGET_DIR:-target}/release

cargo auditable build --release --locked --package groundling "$@"
rm -rf "$target/licences"
cargo metadata --locked --format-version 1 --manifest-path crates/groundling/Cargo.toml \
    --filter-platform "$(uname -m)-unknown-linux-gnu" "$@" |
    python3 deploy/image/licences.py groundling "$target/licences"
