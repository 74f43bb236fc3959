#!/usr/bin/env bash
# Builds the Python client, installs the wheel into a fresh environment, and checks and tests it there with real servers
# and a worker. GROUNDLING_PROGRAM names the program; by default it is the one that `cargo test` builds.
# Arguments go to pytest: clients/python/check.sh -k durable
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
rig=${GROUNDLING_RIG:-$root/.rig}
export GROUNDLING_PROGRAM=${GROUNDLING_PROGRAM:-${CARGO_TARGET_DIR:-$root/target}/debug/groundling}
[ -x "$GROUNDLING_PROGRAM" ] || {
    echo "check: $GROUNDLING_PROGRAM not found; run \`cargo build --package groundling\` or set GROUNDLING_PROGRAM" >&2
    exit 1
}
"$root/deploy/install-tools.sh" --client --python
"$root/clients/python/generate.sh" --check

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INDEX=1 PIP_FIND_LINKS=$rig/python
# Only what is imported is compiled.
export PIP_NO_COMPILE=1 PYTHONPYCACHEPREFIX=$work/compiled
# Without pip, venv works even if ensurepip is not installed; pip runs from its wheel.
python3 -m venv --without-pip "$work/venv"
python=$work/venv/bin/python
pip=("$python" "$(echo "$rig"/python/pip-*.whl)/pip")

# The build writes into its folder.
mkdir "$work/source"
cp -r "$root"/clients/python/{pyproject.toml,README.md,src} "$work/source"
"${pip[@]}" wheel --quiet --no-deps --wheel-dir "$work" "$work/source"
wheel=$(echo "$work"/groundling-*.whl)
"${pip[@]}" install --quiet "${wheel}[opentelemetry,pandas,supervision]" mypy pandas-stubs pytest types-protobuf
"${pip[@]}" install --quiet --no-deps --target "$work/oldest" -r "$root/deploy/python-oldest-requirements.txt"

cd "$root/clients/python"
# The tests are checked with the types of the installed package.
for checked in src/groundling tests; do
    "$python" -m mypy --cache-dir "$work/mypy" "$checked"
done
"$python" -m pytest --quiet "$@"
[ $# -gt 0 ] || PYTHONPATH=$work/oldest "$python" -m pytest --quiet tests/test_jobs.py tests/test_records.py
