#!/usr/bin/env bash
# Installs the tools that the demo and the tests need into .rig/ of this checkout: pinned by hash, without root.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: deploy/install-tools.sh [--lint] [--client] [--loaders]

Installs nats-server and weed (SeaweedFS) into .rig/bin.

  --lint      also install the tools of .ci/run: cargo-deny, buf and shellcheck, into .rig/bin
  --client    also install a Python with nats-py and protobuf, .rig/client/bin/python, and protoc next to it
  --loaders   also install a Python with the programs that read exports (pyarrow, datasets, pycocotools and others, 1.3 GB),
              .rig/loaders/bin/python

Tools that are present in the pinned version are not installed again. GROUNDLING_RIG sets another directory than .rig.
TEXT
}

die() {
    echo "install-tools: $*" >&2
    exit 1
}

lint=no
client=no
loaders=no
for argument in "$@"; do
    case "$argument" in
    --lint) lint=yes ;;
    --client) client=yes ;;
    --loaders) loaders=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
done

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rig=${GROUNDLING_RIG:-$(dirname "$here")/.rig}

platform="$(uname -s) $(uname -m)"
[ "$platform" = "Linux x86_64" ] ||
    die "the pinned tools are built for Linux on x86_64 only, this machine is $platform; put your own nats-server and weed into $rig/bin and run groundling and cargo directly"
command -v python3 >/dev/null || die "python3 not found; it is needed to install the pinned tools"

mkdir -p "$rig/bin"
# Concurrent builds must not replace each other's incomplete directories.
if command -v flock >/dev/null; then
    exec 9>"$rig/lock"
    flock 9
fi
new=$(mktemp -d "$rig/new.XXXXXX")
trap 'rm -rf "$new"' EXIT

# Debian ships python3 without pip; then pip is installed into a venv.
find_pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        pip=(python3 -m pip)
        return
    fi
    if ! "$rig/pip/bin/python" -m pip --version >/dev/null 2>&1; then
        python3 -m venv --clear "$rig/pip" >/dev/null 2>&1 ||
            die "this python3 has neither pip nor a complete venv module; install one of them (Debian and Ubuntu: python3-pip)"
    fi
    pip=("$rig/pip/bin/python" -m pip)
}

pip_install() { # REQUIREMENTS TARGET
    find_pip
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore "${pip[@]}" install --quiet --no-deps \
        --only-binary :all: --require-hashes --target "$2" -r "$1" ||
        die "pip could not install $1; see its output above"
}

# The copy of the requirements is written last, so it marks a complete directory.
complete() { # DIRECTORY REQUIREMENTS EXECUTABLE...
    local directory=$1 requirements=$2 executable
    shift 2
    cmp -s "$requirements" "$directory/requirements.txt" || return 1
    for executable in "$@"; do
        [ -x "$directory/bin/$executable" ] || return 1
    done
}

tools() { # NAME EXECUTABLE...
    local name=$1 requirements=$here/$1-requirements.txt executable
    shift
    if ! complete "$rig/$name" "$requirements" "$@"; then
        echo "install-tools: installing $*" >&2
        pip_install "$requirements" "$new/$name"
        cp "$requirements" "$new/$name/requirements.txt"
        rm -rf "${rig:?}/$name"
        mv "$new/$name" "$rig/$name"
        complete "$rig/$name" "$requirements" "$@" || die "$requirements did not install all of: $*"
    fi
    for executable in "$@"; do
        ln -sfn "../$name/bin/$executable" "$rig/bin/$executable"
    done
}

python_client() {
    local requirements=$here/client-requirements.txt packages
    # The venv links to the system's Python, which may have changed.
    if complete "$rig/client" "$requirements" python protoc && [ -d "$rig/client/include/google" ] &&
        "$rig/client/bin/python" -c 'import google.protobuf, nats' 2>/dev/null; then
        return
    fi
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "the Python client needs Python 3.10 or newer, python3 is $(python3 -V)"
    echo "install-tools: installing nats-py, protobuf and protoc for Python" >&2
    # Without pip, venv works even if ensurepip is not installed.
    python3 -m venv --clear --without-pip "$rig/client" || die "python3 -m venv failed; see its output above"
    packages=$("$rig/client/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    pip_install "$requirements" "$new/client"
    # protoc looks for Google's .proto files in ../include.
    mv "$new/client/bin/protoc" "$rig/client/bin/protoc"
    mv "$new/client/include/google" "$rig/client/include/google"
    cp -r "$new/client/." "$packages/"
    cp "$requirements" "$rig/client/requirements.txt"
    complete "$rig/client" "$requirements" python protoc || die "$requirements did not install protoc"
}

python_loaders() {
    local requirements=$here/loaders-requirements.txt packages
    if complete "$rig/loaders" "$requirements" python && "$rig/loaders/bin/python" -c 'import pyarrow, datumaro' 2>/dev/null; then
        return
    fi
    python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
        die "the pinned loaders are built for Python 3.11, python3 is $(python3 -V)"
    echo "install-tools: installing the programs that read exports" >&2
    python3 -m venv --clear --without-pip "$rig/loaders" || die "python3 -m venv failed; see its output above"
    packages=$("$rig/loaders/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    pip_install "$requirements" "$new/loaders"
    mv "$new/loaders"/* "$packages/"
    cp "$requirements" "$rig/loaders/requirements.txt"
}

tools rig nats-server weed
[ "$lint" = no ] || tools lint cargo-deny buf shellcheck
[ "$client" = no ] || python_client
[ "$loaders" = no ] || python_loaders
