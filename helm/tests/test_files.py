"""Container files, workflows and alert rules."""

import re
import subprocess
import unittest

import yaml

from chart import CASES, CHART, RIG, ROOT, of_kind, template


class Files(unittest.TestCase):
    def test_container_files_have_no_faults(self):
        files = sorted((ROOT / "deploy").glob("Dockerfile*"))
        self.assertEqual([file.name for file in files], ["Dockerfile", "Dockerfile.cuda"])
        command = [RIG / "bin/hadolint", "--config", ROOT / "deploy/hadolint.yaml", *files]
        result = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_the_chart_has_the_version_of_the_program(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        version = re.search('^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))

    def test_workflows_give_each_job_only_the_permissions_that_it_needs(self):
        for file in sorted((ROOT / ".github/workflows").glob("*.yml")):
            workflow = yaml.safe_load(file.read_text())
            self.assertEqual(workflow["permissions"], {"contents": "read"}, file.name)
            for name, job in workflow["jobs"].items():
                self.assertIn("timeout-minutes", job, f"{file.name} {name}")

    def test_nothing_is_released_before_the_checks_pass_and_the_image_runs(self):
        jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
        self.assertIn({"run": ".ci/run"}, jobs["checks"]["steps"])
        self.assertIn("checks", jobs["images"]["needs"])
        self.assertIn("images", jobs["chart"]["needs"])
        runs = [step.get("run", "") for step in jobs["images"]["steps"]]
        [tried] = [index for index, run in enumerate(runs) if "docker run" in run]
        [signed] = [index for index, run in enumerate(runs) if "cosign sign" in run]
        self.assertLess(tried, signed)
        for part in ("--version", "check "):
            self.assertIn(part, runs[tried])

    def test_settings_of_the_checkout_do_not_get_into_a_build(self):
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        self.assertLessEqual({"local", "groundling.toml", "target"}, set(ignored))

    def test_workflows_use_actions_by_commit(self):
        for file in sorted((ROOT / ".github/workflows").glob("*.yml")):
            for line in file.read_text().splitlines():
                if "uses:" in line:
                    self.assertRegex(line, r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", file.name)

    def test_alert_rules_use_metrics_that_exist(self):
        text = (CHART / "files/alerts.yaml").read_text()
        of_the_repository = ROOT / "deploy/observability/alerts.yaml"
        if of_the_repository.exists():
            self.assertEqual(text, of_the_repository.read_text(), "run helm/test.sh --update")
        documented = (ROOT / "docs/metrics.md").read_text()
        # Names of attributes have dots there.
        known = {name.replace(".", "_") for name in re.findall("`([a-z0-9_.]+)`", documented)}
        rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
        self.assertGreater(len(rules), 0)
        for rule in rules:
            for metric in re.findall(r"\b(?:groundling|messaging|gen_ai|hw)_[a-z0-9_]+", rule["expr"]):
                self.assertIn(re.sub("_(bucket|sum|count)$", "", metric), known, rule)

    def test_alert_rules_have_the_names_of_the_settings(self):
        [case] = [case for case in CASES if case.stem == "everything"]
        [found] = of_kind(case, "PrometheusRule")
        text = str(found["spec"])
        self.assertIn('stream_name=~"ANNOTATOR_JOBS|GROUNDLING_RETRIES", consumer_name=~"annotators(-urgent)?"', text)
        self.assertNotRegex(text, "groundling-workers|GROUNDLING_JOBS|GROUNDLING_[.]")
        streams = re.search('jetstream_stream_total_bytes{stream_name=~"([^"]*)"', text)[1].split("|")
        self.assertEqual(len(streams), 8)
        self.assertLessEqual({"ANNOTATOR_JOBS", "GROUNDLING_EVENTS"}, set(streams))
        # Each name where the other was.
        swapped = ["settings.streams.jobs=GROUNDLING_RETRIES", "settings.streams.retries=GROUNDLING_JOBS"]
        result = template("helm4", case, *[part for flag in swapped for part in ("--set", flag)])
        self.assertIn('stream_name=~"GROUNDLING_RETRIES|GROUNDLING_JOBS"', result.stdout)
        self.assertIn('absent(jetstream_consumer_num_pending{stream_name="GROUNDLING_RETRIES"', result.stdout)
        # Without names in the settings, the rules are those of the file.
        [minimal] = [case for case in CASES if case.stem == "minimal"]
        result = template("helm4", minimal, "--set", "prometheusRule.enabled=true")
        [found] = [found for found in yaml.safe_load_all(result.stdout) if found["kind"] == "PrometheusRule"]
        self.assertEqual(found["spec"], yaml.safe_load((CHART / "files/alerts.yaml").read_text()))


if __name__ == "__main__":
    unittest.main()
