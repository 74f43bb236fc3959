"""Running helm and the program, and the files that the tests read."""

import functools
import os
import pathlib
import re
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/groundling"
CASES = sorted((ROOT / "helm/cases").glob("*.yaml"))
GOLDEN = ROOT / "helm/golden"
HELMS = ("helm3", "helm4")
PROGRAM = os.environ["GROUNDLING_BIN"]
RIG = pathlib.Path(os.environ["GROUNDLING_RIG"])


def helm(version, *arguments, **options):
    """Runs helm without settings of the user."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "HELM_CACHE_HOME": "/nonexistent"}
    command = [RIG / "bin" / version, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def program(*arguments, **variables):
    """Runs the program without settings of the user."""
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, env=environment, timeout=60)


def template(version, values, *flags):
    """`helm template` of a release "release" in the namespace "annotate"."""
    return helm(version, "template", "release", CHART, "--namespace", "annotate", "--values", values, *flags)


@functools.cache
def rendered(version, case):
    """The objects of a case as text, without blank lines, in which the versions of helm differ."""
    result = template(version, case)
    if result.returncode != 0:
        raise AssertionError(f"{version} does not render {case.name}: {result.stderr}")
    return "".join(line for line in result.stdout.splitlines(keepends=True) if line.strip())


@functools.cache
def objects(case):
    """The objects of a case."""
    return [found for found in yaml.safe_load_all(rendered("helm4", case)) if found]


def of_kind(case, *kinds):
    """The objects of some kinds."""
    return [found for found in objects(case) if found["kind"] in kinds]


def pods(case):
    """The name and the specification of every pod."""
    for found in of_kind(case, "Deployment", "Job"):
        yield found["metadata"]["name"], found["spec"]["template"]["spec"]
    for found in of_kind(case, "Pod"):
        yield found["metadata"]["name"], found["spec"]


def sentences(text):
    """A text with each run of white space as one space: helm breaks long lines."""
    return re.sub(r"\s+", " ", text)
