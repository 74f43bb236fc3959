#!/usr/bin/env bash
# Builds what tests/gpu.sh runs on a machine with a card, stripped and packed: tests/gpu-build.sh DIR
# Needs CUDA's compiler (NVCC names it where it is not on the path), and the CUDA libraries or stubs of them to link.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo build --release --locked -p groundling -p kernels -p kosmos2 \
    --features groundling/cuda,kernels/cuda,kosmos2/cuda --bins --example cuda_check --example agreement
release="${CARGO_TARGET_DIR:-target}/release"
for program in "$release/groundling" "$release/examples/cuda_check" "$release/examples/agreement"; do
    strip -o "$out/$(basename "$program")" "$program"
    xz -T0 -f "$out/$(basename "$program")"
done
ls -l "$out"
