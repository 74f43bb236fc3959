"""The chart as helm renders it."""

import pathlib
import re
import shlex
import tempfile
import unittest

from chart import CASES, CHART, GOLDEN, HELMS, ROOT, helm, rendered, template


class Rendering(unittest.TestCase):
    def test_both_versions_of_helm_find_no_fault_in_the_chart(self):
        # Without values, required ones are missing; lint reports these as information.
        for version in HELMS:
            for values in ([], *(["--values", case] for case in CASES)):
                with self.subTest(version=version, values=values):
                    result = helm(version, "lint", "--strict", CHART, *values)
                    self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_both_versions_of_helm_render_the_same(self):
        for case in CASES:
            with self.subTest(case=case.name):
                self.assertEqual(rendered("helm3", case), rendered("helm4", case))

    def test_what_is_rendered_is_what_was_reviewed(self):
        self.assertEqual({path.name for path in GOLDEN.iterdir()}, {case.name for case in CASES})
        for case in CASES:
            with self.subTest(case=case.name):
                reviewed = (GOLDEN / case.name).read_text()
                self.assertEqual(rendered("helm4", case), reviewed, "run helm/test.sh --update and review the difference")

    def test_the_packed_chart_renders_the_same(self):
        with tempfile.TemporaryDirectory() as directory:
            result = helm("helm4", "package", CHART, "--destination", directory)
            self.assertEqual(result.returncode, 0, result.stderr)
            [archive] = pathlib.Path(directory).glob("groundling-*.tgz")
            case = next(case for case in CASES if case.name == "everything.yaml")
            result = helm("helm4", "template", "release", archive, "--namespace", "annotate", "--values", case)
            text = "".join(line for line in result.stdout.splitlines(keepends=True) if line.strip())
            self.assertEqual(text, rendered("helm4", case))

    def test_the_notes_say_how_many_workers_run_and_what_to_do_next(self):
        expected = {
            "minimal": ["Workers: 1.", "has 330 s to finish", "helm -n annotate test release --logs"],
            "cpu": ["Workers: 0.", "workers do not start before `groundling setup` has created the streams"],
            "spot": ["has 50 s to finish", "Every new worker downloads the model."],
            "keda-lag": ["KEDA runs 0 to 10, one for every 18000 waiting jobs."],
            "keda-drain": ["KEDA runs 0 to 40, so that the waiting jobs are done within 900 s."],
            "hpa": ["2 to 8, by a HorizontalPodAutoscaler."],
            "everything": ["minReplicaCount is 1: that many workers run even if no job waits"],
        }
        for name, texts in expected.items():
            case = next(case for case in CASES if case.stem == name)
            # helm 3 asks a cluster for its version even here.
            arguments = ("install", "release", CHART, "--namespace", "annotate", "--values", case)
            result = helm("helm4", *arguments, "--dry-run=client")
            self.assertEqual(result.returncode, 0, result.stderr)
            notes = result.stdout.split("NOTES:")[-1]
            for text in texts:
                with self.subTest(case=name, text=text):
                    self.assertIn(text, notes)
            self.assertNotIn("<no value>", notes)

    def test_the_commands_and_values_of_the_documentation_render(self):
        text = (ROOT / "docs/deployment.md").read_text()
        commands = re.search("```sh\n(.*?)```", text, re.DOTALL)[1].replace("\\\n", " ").splitlines()
        [install] = [command for command in commands if command.startswith("helm install ")]
        # The chart is named relative to the root of the repository.
        result = helm("helm4", "template", *shlex.split(install)[2:], cwd=ROOT)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn('path = "/model"', result.stdout)
        [minimal] = [case for case in CASES if case.stem == "minimal"]
        blocks = re.findall("```yaml\n(.*?)```", text, re.DOTALL)
        self.assertEqual(len(blocks), 2)
        for block in blocks:
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(block)
                file.flush()
                result = template("helm4", minimal, "--values", file.name)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertIn("kind: ScaledObject", result.stdout)


if __name__ == "__main__":
    unittest.main()
