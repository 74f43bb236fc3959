#!/usr/bin/env bash
# Builds the root of the CPU image without a container engine, and runs the program in it as the image would: as user 65532, with
# a read-only root and no network. Prints the size. Needs root, debootstrap and Debian's archive.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: deploy/image/build-here.sh [--program FILE] [--libraries DIR] OUT

OUT              directory for the root; must not exist
--program FILE   a program that is built already. Otherwise it is built in a clean Debian with the Rust of RUSTUP_HOME
                 and CARGO_HOME, which must have cargo-auditable
--libraries DIR  directory of shared libraries that the program needs, as CUDA's
TEXT
}

die() {
    echo "build-here.sh: $*" >&2
    exit 1
}

program='' out='' libraries=()
while [ $# -gt 0 ]; do
    case $1 in
    --program) program=$(realpath "$2") && shift 2 ;;
    --libraries) libraries+=("$(realpath "$2")") && shift 2 ;;
    -h | --help) usage && exit 0 ;;
    -*) usage >&2 && exit 2 ;;
    *) out=$1 && shift ;;
    esac
done
[ -n "$out" ] || {
    usage >&2
    exit 2
}
[ "$(id -u)" = 0 ] || die "root is needed, to make and enter a root directory"
command -v debootstrap >/dev/null || die "debootstrap not found; install Debian's package of that name"
[ ! -e "$out" ] || die "$out exists"
mkdir -p "$(dirname "$out")"
out=$(realpath "$out")
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
suite=bookworm

work=$(mktemp -d)
# Mounts live in a namespace of their own and end with it.
trap 'rm -rf "$work"' EXIT
in_root() { # ROOT SCRIPT ARGUMENT... runs a script in a mount namespace, with the root in $ROOT
    local root=$1
    shift
    ROOT=$root unshare --mount --propagation private bash -euo pipefail -c "$@"
}

if [ -z "$program" ]; then
    echo "build-here.sh: building the program in a clean Debian" >&2
    build=$work/build
    rust=${RUSTUP_HOME:-$HOME/.rustup} cargo=${CARGO_HOME:-$HOME/.cargo}
    debootstrap --variant=minbase --include=build-essential,ca-certificates,nasm,python3 "$suite" "$build" >"$work/log" ||
        die "debootstrap failed: $(tail -n 5 "$work/log")"
    mkdir -p "$build/src" "$build/target" "$build/usr/local/rustup" "$build/usr/local/cargo"
    export BUILD_RUST=$rust BUILD_CARGO=$cargo BUILD_SOURCE=$repository
    # shellcheck disable=SC2016 # expanded in the namespace
    in_root "$build" '
        mount --bind "$BUILD_SOURCE" "$ROOT/src"
        mount --bind -o ro "$BUILD_RUST" "$ROOT/usr/local/rustup"
        mount --bind "$BUILD_CARGO" "$ROOT/usr/local/cargo"
        mount -t proc proc "$ROOT/proc"
        mount --bind /dev "$ROOT/dev"
        cp /etc/resolv.conf "$ROOT/etc/resolv.conf"
        env -i PATH=/usr/local/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUSTUP_HOME=/usr/local/rustup \
            CARGO_HOME=/usr/local/cargo CARGO_TARGET_DIR=/target CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-2}" \
            chroot "$ROOT" /src/deploy/image/compile.sh'
    program=$build/target/release/groundling
fi

"$repository/deploy/image/root.sh" "$program" "$work/image" "${libraries[@]}"

# What distroless/cc is made of, from the same packages.
packages=(base-files ca-certificates libc6 libgcc-s1 libgomp1 libssl3 libstdc++6 netbase tzdata)
debootstrap --download-only --variant=minbase --include="$(IFS=, && echo "${packages[*]}")" "$suite" "$work/debian" \
    >"$work/log" || die "debootstrap failed: $(tail -n 5 "$work/log")"
mkdir -p "$work/root"/{dev,proc,sys,tmp,home/nonroot}
for package in "${packages[@]}"; do
    archives=("$work/debian/var/cache/apt/archives/$package"_*.deb)
    dpkg-deb --extract "${archives[0]}" "$work/root"
done
find "$work/root/usr/share/ca-certificates" -name '*.crt' -exec cat {} + >"$work/root/etc/ssl/certs/ca-certificates.crt"
echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' >"$work/root/etc/passwd"
echo 'nonroot:x:65532:' >"$work/root/etc/group"
base=$(du --summarize --bytes "$work/root" | cut -f 1)
cp -r "$work/image/." "$work/root/"

export MODEL=$repository/crates/sandbox/demo
# shellcheck disable=SC2016 # expanded in the namespace
run_in_image() { # ARGUMENT... of groundling, with the demo's model at /model
    in_root "$work/root" '
        mount --bind "$ROOT" "$ROOT"
        mount -t tmpfs -o size=64k tmpfs "$ROOT/home"
        mkdir "$ROOT/home/model"
        mount --bind -o ro "$MODEL" "$ROOT/home/model"
        mount --bind /dev "$ROOT/dev"
        mount -t proc proc "$ROOT/proc"
        mount -o remount,bind,ro "$ROOT" "$ROOT"
        cd "$ROOT"
        exec unshare --net env -i PATH=/usr/sbin:/usr/bin chroot --userspec=65532:65532 "$ROOT" /usr/bin/groundling "$@"' -- "$@"
}
if [ ${#libraries[@]} -eq 0 ]; then
    run_in_image --version
    run_in_image annotate --model /home/model/kosmos-2-emoji --device cpu --format json /home/model/scenes/0000.jpg \
        >"$work/answer"
    grep -q '"phrase"' "$work/answer" || die "the program did not annotate a picture in the image: $(cat "$work/answer")"
    echo "the program annotated a picture as user 65532, with a read-only root and no network"
fi

mv "$work/root" "$out"
total=$(du --summarize --bytes "$out" | cut -f 1)
printf 'root of the image: %s bytes, of which base %s, program and libraries %s\n' "$total" "$base" $((total - base))
