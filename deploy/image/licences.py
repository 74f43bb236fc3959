#!/usr/bin/env python3
"""Collects the licences of the crates that a program is built from: `cargo metadata | licences.py ROOT OUT`.

Reads the output of `cargo metadata --locked --format-version 1 --filter-platform TARGET`. ROOT is the package of the
program. OUT gets a directory for each crate with the files of its licence, and `crates.tsv`: name, version, licence. A few
crates are published without such files; their directory says what the manifest has. The texts of Apache-2.0 and MIT are in
LICENSE and THIRD-PARTY.md of this repository, which the image has too."""

import json
import pathlib
import shutil
import sys

NAMES = ("licen", "copying", "notice", "copyright", "unlicense", "authors")


def built_from(metadata, root):
    """The ids of the packages that are linked into the root, or run while it is built."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    [start] = [package["id"] for package in metadata["packages"] if package["name"] == root]
    found, waiting = set(), [start]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        for dependency in nodes[current]["deps"]:
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return found


def licence_files(package):
    """The files of a crate's licence in the root of its source."""
    directory = pathlib.Path(package["manifest_path"]).parent
    files = {path for path in directory.iterdir() if path.is_file() and path.name.lower().startswith(NAMES)}
    if package.get("license_file"):
        files.add(directory / package["license_file"])
    return sorted(files)


def described(package):
    """What the manifest says of a crate without files of its licence."""
    authors = ", ".join(package.get("authors") or ["not named"])
    return (
        "This crate is published without a licence file. Its manifest says:\n"
        f"licence: {package['license']}\nauthors: {authors}\nrepository: {package.get('repository')}\n"
    )


def main(root, out):
    metadata = json.load(sys.stdin)
    ids = built_from(metadata, root)
    out = pathlib.Path(out)
    out.mkdir(parents=True)
    lines = []
    # Crates without a source are those of this repository, whose licence the image has anyway.
    for package in sorted(metadata["packages"], key=lambda package: (package["name"], package["version"])):
        if package["id"] not in ids or package["source"] is None:
            continue
        if not package.get("license") and not package.get("license_file"):
            sys.exit(f"licences.py: {package['name']} {package['version']} names no licence")
        lines.append(f"{package['name']}\t{package['version']}\t{package.get('license') or package['license_file']}\n")
        directory = out / f"{package['name']}-{package['version']}"
        directory.mkdir()
        files = licence_files(package)
        for file in files:
            shutil.copyfile(file, directory / file.name)
        if not files:
            (directory / "manifest.txt").write_text(described(package))
    (out / "crates.tsv").write_text("".join(lines))
    print(f"licences of {len(lines)} crates in {out}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
