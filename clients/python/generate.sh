#!/usr/bin/env bash
# Generates the protobuf modules src/groundling/v1 from proto/ with the pinned protoc.
# With --check, changes nothing and fails if the committed modules differ.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
rig=${GROUNDLING_RIG:-$root/.rig}
modules=$root/clients/python/src/groundling/v1

case "${1-}" in
"" | --check) ;;
*)
    echo "usage: clients/python/generate.sh [--check]" >&2
    exit 2
    ;;
esac
[ -x "$rig/client/bin/protoc" ] || {
    echo "generate: $rig/client/bin/protoc not found; run deploy/install-tools.sh --client" >&2
    exit 1
}

new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
# The other files define messages that only workers use.
(cd "$root/proto" && "$rig/client/bin/protoc" --python_out="$new" --pyi_out="$new" \
    groundling/v1/{annotation,failure,job}.proto)
# protoc's modules refuse every protobuf runtime that is older than protoc itself. They work with all versions that
# pyproject.toml allows, which check.sh tests, so the refusal is removed.
sed -i -e '/^from google.protobuf import runtime_version/d' \
    -e '/^_runtime_version.ValidateProtobufRuntimeVersion($/,/^)$/d' "$new"/groundling/v1/*_pb2.py
if grep -l runtime_version "$new"/groundling/v1/*_pb2.py; then
    echo "generate: these modules still check the version of the runtime: protoc's output has changed" >&2
    exit 1
fi
echo '"""The messages of Groundling, generated from proto/groundling/v1."""' >"$new/groundling/v1/__init__.py"

if [ "${1-}" = --check ]; then
    diff -r -x __pycache__ "$modules" "$new/groundling/v1" || {
        echo "generate: $modules differs from proto/; run clients/python/generate.sh" >&2
        exit 1
    }
else
    rm -rf "$modules"
    cp -r "$new/groundling/v1" "$modules"
fi
