#!/usr/bin/env bash
# What only a card can tell: whether the CUDA kernels and the backend are right there, and how fast they are. Takes built
# programs, since a machine with a card may have no Rust; tests/gpu-build.sh makes them. Every step has a time limit and
# a log of its own in --out; the last lines are a table. The whole of it takes some five minutes.
#
#   tests/gpu.sh --bin DIR [--out DIR] [--baseline hf_baseline.py] [--quick]
#
# --bin       groundling, cuda_check, agreement and nats-server, plain or as .xz; without nats-server, no whole worker
# --baseline  the reference's timing script, run on the same card; it also makes the weights that both are timed with
# --quick     right or wrong, and batch 1 and 1024 alone
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

bin='' out="${OUT:-target/gpu}" baseline='' quick=''
while [ $# -gt 0 ]; do
    case $1 in
    --bin) bin=$2 && shift 2 ;;
    --out) out=$2 && shift 2 ;;
    --baseline) baseline=$2 && shift 2 ;;
    --quick) quick=1 && shift ;;
    *) echo "gpu.sh: $1 is not known; see the head of this file" >&2 && exit 2 ;;
    esac
done
[ -n "$bin" ] || { echo "gpu.sh: --bin is missing; see the head of this file" >&2 && exit 2; }
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for program in groundling cuda_check agreement nats-server; do
    if [ -e "$bin/$program.xz" ]; then
        xz -dc "$bin/$program.xz" >"$work/$program"
    elif [ -e "$bin/$program" ]; then
        cp "$bin/$program" "$work/$program"
    fi
done
chmod +x "$work"/*
PATH="$work:$PATH"

model=crates/sandbox/demo/kosmos-2-emoji scenes=crates/sandbox/demo/scenes
published=tests/fixtures/text/kosmos-2-patch14-224
batches=1,32,128,256,512,1024
[ -z "$quick" ] || batches=1,1024
failed=0

# step NAME SECONDS COMMAND…: its output into NAME.log; goes on whatever comes of it.
step() {
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    if timeout "$limit" "$@" >"$out/$name.log" 2>&1; then
        printf '%-12s done in %d s\n' "$name" $((SECONDS - start))
    else
        printf '%-12s FAILED (exit %d) after %d s; the log ends:\n' "$name" $? $((SECONDS - start))
        tail -n 5 "$out/$name.log"
        failed=1
    fi
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader | tee "$out/card.log"
step checks 60 cuda_check --checks
step emoji 90 agreement "$model" "$scenes" --device cuda
weights=(--random "$published")
if [ -n "$baseline" ] && [ -z "$quick" ]; then
    # The same weights for both.
    step reference-1 120 python3 "$baseline" --device cuda --dtype bf16 --batch 1 --new-tokens 64 --save "$work/full"
    step reference-1024 120 python3 "$baseline" --device cuda --dtype bf16 --batch 1024 --new-tokens 64
    # Texts of 8 to 128 tokens in padded batches: a batch of so many goes on for as long as the longest.
    step padded 120 python3 "$baseline" --device cuda --dtype bf16 --batch 1024 --new-tokens 128 --repeat 2
    weights=(--model "$work/full")
fi
step bench 150 groundling bench "${weights[@]}" --device cuda --dtype bf16 --batch "$batches" --new-tokens 64 \
    --repeat 3 --format json
step bench-kv8 90 groundling bench "${weights[@]}" --device cuda --dtype bf16-kv8 --batch 1024 --new-tokens 64 \
    --repeat 3 --format json
if [ -z "$quick" ]; then
    for dtype in bf16 bf16-kv8; do
        step "unequal-$dtype" 90 groundling bench "${weights[@]}" --device cuda --dtype "$dtype" --batch 1024 \
            --lengths 8-128 --pictures 4096 --repeat 2 --format json
    done
    if [ -d "$work/full" ] && [ -x "$work/nats-server" ]; then
        cp "$published"/*_config.json "$work/full"
        gzip -dc "$published/tokenizer.json.gz" >"$work/full/tokenizer.json"
        step worker 150 groundling bench "${weights[@]}" --device cuda --dtype bf16 --batch 1024 --new-tokens 64 \
            --pictures 6144 --repeat 2 --format json --through-worker tests/fixtures/images/{corgi,two_dogs}.jpg \
            "$scenes"/*.jpg
    fi
    step kernels 60 cuda_check
    step logits 90 agreement --random "$published" --device cuda
fi

echo
cat "$out/card.log"
grep -hE 'checks, [0-9]+ wrong|WRONG' "$out/checks.log"
grep -hE 'of 384 texts are|identical texts|relative error' "$out/emoji.log" "$out/logits.log"
python3 - "$out" <<'PYTHON'
import json, pathlib, sys

def figures(pattern):
    for path in sorted(pathlib.Path(sys.argv[1]).glob(pattern)):
        for line in path.read_text().splitlines():
            if line.startswith("{"):
                yield path.stem, json.loads(line)

row = "{:14} {:8} {:>6} {:>9} {:>9} {:>8} {:>8} {:>8} {:>9}".format
print(row("", "", "batch", "images/s", "vision ms", "prefill", "step ms", "total s", "of floor"))
for name, f in [*figures("bench*.log"), *figures("reference-*.log")]:
    share = f.get("floor_share")
    print(row(name, f["dtype"], f["batch"], f"{f['images_per_s']:.2f}", f"{f['vision_s'] * 1e3:.1f}", f"{f['prefill_s'] * 1e3:.1f}",
              f"{f['decode_step_s'] * 1e3:.3f}", f"{f['total_s']:.3f}", f"{share:.0%}" if share else "-"))
for name, f in figures("unequal-*.log"):
    print(f"{f['dtype']}, {f['pictures']} pictures of {f['min_new_tokens']} to {f['max_new_tokens']} tokens, {f['batch']} at once: "
          f"{f['images_per_s']:.2f} images/s, {f['tokens_per_s']:.0f} tokens/s")
for name, f in figures("padded.log"):
    print(f"the reference in padded batches of {f['batch']}, up to {f['new_tokens']} tokens: {f['images_per_s']:.2f} images/s")
for name, f in figures("worker.log"):
    print(f"{f['pictures']} pictures, {f['batch']} at once: the engine alone {f['engine_images_per_s']:.2f} images/s, "
          f"the whole worker {f['worker_images_per_s']:.2f} ({f['worker_share']:.1%})")
PYTHON
exit $failed
