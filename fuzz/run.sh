#!/usr/bin/env bash
# Runs each fuzz target for SECONDS, one after the other, and prints a table of executions and findings.
#   fuzz/run.sh SECONDS [TARGET...]
# FUZZ_PROGRAMS: absolute path of a directory with built targets; if it is set, nothing is built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
    printf 'usage: fuzz/run.sh SECONDS [TARGET...]\n' >&2
    exit 2
fi
seconds=$1
shift
targets=("$@")
((${#targets[@]})) || targets=(job_decoding post_processing prompt_building picture_decoding config_parsing
    event_decoding)

programs=${FUZZ_PROGRAMS:-}
if [[ -z $programs ]]; then
    (cd .. && cargo +nightly fuzz build -O)
    programs=target/$(rustc -vV | sed -n 's/^host: //p')/release
fi

# libFuzzer exits at its first finding; it is restarted with its corpus for the remaining time.
fuzz() { # TARGET LOG
    local target=$1 log=$2 end=$((SECONDS + seconds)) runs=0
    while ((SECONDS < end && runs < 20)); do
        runs=$((runs + 1))
        "$programs/$target" "work/$target" "seeds/$target" -max_total_time=$((end - SECONDS)) -print_final_stats=1 \
            -timeout=10 -rss_limit_mb=2048 -artifact_prefix="artifacts/$target/" >>"$log" 2>&1 && break
    done
    return 0
}

# rav1d leaks 48 bytes per AVIF picture, which would be reported as a finding in every run.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
total_findings=0
rows=()
for target in "${targets[@]}"; do
    mkdir -p "work/$target" "artifacts/$target"
    log=artifacts/$target.log
    : >"$log"
    # Findings of this run are the files newer than this one.
    stamp=$(mktemp)
    started=$SECONDS
    fuzz "$target" "$log"
    findings=$(find "artifacts/$target" -type f -newer "$stamp" | wc -l)
    rm -f "$stamp"
    executions=$(awk '/^stat::number_of_executed_units:/ { sum += $2 } END { print sum + 0 }' "$log")
    peak=$(awk '/^stat::peak_rss_mb:/ && $2 > peak { peak = $2 } END { print peak + 0 }' "$log")
    total_findings=$((total_findings + findings))
    rows+=("$(printf '%-18s %8d %12d %10d %9d' "$target" $((SECONDS - started)) "$executions" "$peak" "$findings")")
    printf '%s\n' "${rows[-1]}" >&2
done

printf '%-18s %8s %12s %10s %9s\n' target seconds executions peak_MiB findings
printf '%s\n' "${rows[@]}"
((total_findings == 0))
