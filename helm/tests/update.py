"""Writes the files that are derived from others."""

import shutil

from chart import CASES, CHART, GOLDEN, ROOT, program, rendered
from settings_schema import with_settings

ALERTS = ROOT / "deploy/observability/alerts.yaml"

if __name__ == "__main__":
    schema = CHART / "values.schema.json"
    schema.write_text(with_settings(schema.read_text(), program("settings", "--schema").stdout))
    if ALERTS.exists():
        shutil.copyfile(ALERTS, CHART / "files/alerts.yaml")
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.glob("*.yaml"):
        old.unlink()
    for case in CASES:
        (GOLDEN / case.name).write_text(rendered("helm4", case))
