#!/usr/bin/env bash
# Lays out what an image adds to distroless/cc: the program, its licences, and the shared libraries that it is linked with and
# that the base image does not have, as `readelf -d` names them. Libraries of the NVIDIA driver are left out, because the
# container runtime mounts those of the node.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: deploy/image/root.sh PROGRAM OUT [LIBRARIES...]

PROGRAM      the built groundling
OUT          a directory that is created: OUT/usr/bin/groundling and so on
LIBRARIES    directories to take libraries from, for example /usr/local/cuda/lib64

A directory `licences` beside PROGRAM, as deploy/image/licences.py writes it, is copied too.
TEXT
}

die() {
    echo "root.sh: $*" >&2
    exit 1
}

[ $# -ge 2 ] || {
    usage >&2
    exit 2
}
program=$1 out=$2
shift 2
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ -x "$program" ] || die "$program is not an executable file"
[ ! -e "$out" ] || die "$out exists"
command -v readelf >/dev/null || die "readelf not found; install binutils"

# In distroless/cc.
base='ld-linux-x86-64.so.2 ld-linux-aarch64.so.1 libc.so.6 libdl.so.2 libgcc_s.so.1 libm.so.6 libpthread.so.0 librt.so.1 libstdc++.so.6'
# From the node.
driver='libcuda.so.1 libnvidia-ml.so.1'

needed() { # FILE
    readelf --dynamic --wide "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
}

is_one_of() { # NAME LIST
    case " $2 " in
    *" $1 "*) return 0 ;;
    esac
    return 1
}

find_library() { # NAME DIRECTORY...
    local name=$1 directory
    shift
    for directory in "$@"; do
        if [ -e "$directory/$name" ]; then
            echo "$directory/$name"
            return
        fi
    done
    return 1
}

# The dynamic linker searches this directory without a cache.
libraries=$out/usr/lib/$(uname -m)-linux-gnu
mkdir -p "$out/usr/bin" "$out/usr/share/doc/groundling"
install -m 0755 "$program" "$out/usr/bin/groundling"
install -m 0644 "$repository/LICENSE" "$repository/THIRD-PARTY.md" "$out/usr/share/doc/groundling/"
if [ -d "$(dirname "$program")/licences" ]; then
    cp -r "$(dirname "$program")/licences" "$out/usr/share/doc/groundling/licences"
fi

mapfile -t waiting < <(needed "$program")
while [ ${#waiting[@]} -gt 0 ]; do
    name=${waiting[0]}
    waiting=("${waiting[@]:1}")
    if is_one_of "$name" "$base $driver" || [ -e "$libraries/$name" ]; then
        continue
    fi
    found=$(find_library "$name" "$@") || die "$name is needed and is in none of: ${*:-(no directory given)}"
    mkdir -p "$libraries"
    # The file behind the links, under the name that is asked for.
    install -m 0644 "$(readlink -f "$found")" "$libraries/$name"
    mapfile -t -O "${#waiting[@]}" waiting < <(needed "$found")
done

find "$out" -type f -printf '%10s %P\n' | sort -k 2
du --summarize --bytes "$out" | awk '{printf "%10d bytes in all\n", $1}'
