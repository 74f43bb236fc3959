"""The rendered objects against Kubernetes' schemas, and values against the chart's."""

import json
import pathlib
import tempfile
import unittest

import jsonschema
import kubernetes_validate
import yaml

from chart import CASES, CHART, HELMS, ROOT, objects, program, sentences, template
from settings_schema import OF_THE_CHART, with_settings

NEWEST, OLDEST = "1.37", "1.29"
# Image volumes and claims of devices are newer.
NOT_IN_OLDEST = {"hpa.yaml", "claims.yaml"}
CUSTOM = yaml.safe_load((pathlib.Path(__file__).parent / "custom_resources.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
MINIMAL = yaml.safe_load((ROOT / "helm/cases/minimal.yaml").read_text())


def faults(value, known, path):
    """What in a value is not as the description of its fields says."""
    if isinstance(known, dict):
        if not isinstance(value, dict):
            return [f"{path} is not an object"]
        unknown = [f"{path}.{key} is unknown" for key in value if key not in known]
        return unknown + [
            fault for key in value if key in known for fault in faults(value[key], known[key], f"{path}.{key}")
        ]
    if isinstance(known, list):
        if not isinstance(value, list):
            return [f"{path} is not a list"]
        return [fault for index, entry in enumerate(value) for fault in faults(entry, known[0], f"{path}[{index}]")]
    if known == "strings":
        if not isinstance(value, dict):
            return [f"{path} is not an object"]
        return [f"{path}.{key} is not a string" for key, entry in value.items() if not isinstance(entry, str)]
    types = {"string": str, "integer": int, "boolean": bool}
    if known in types:
        is_right = isinstance(value, types[known]) and (known == "boolean" or not isinstance(value, bool))
        return [] if is_right else [f"{path} is {value!r}, not a {known}"]
    return [] if value in known.split("|") else [f"{path} is {value!r}, not {known}"]


def custom_faults(found):
    """What is wrong with an object of a custom resource."""
    kind = f"{found['apiVersion']} {found['kind']}"
    result = faults(found["spec"], CUSTOM[kind], kind)
    for index, trigger in enumerate(found["spec"].get("triggers", [])):
        result += faults(trigger["metadata"], CUSTOM[f"trigger {trigger['type']}"], f"{kind}.triggers[{index}].metadata")
    return result


class Objects(unittest.TestCase):
    def test_every_object_of_kubernetes_has_its_schema(self):
        for version in (NEWEST, OLDEST):
            for case in CASES:
                if version == OLDEST and case.name in NOT_IN_OLDEST:
                    continue
                for found in objects(case):
                    if f"{found['apiVersion']} {found['kind']}" in CUSTOM:
                        continue
                    with self.subTest(version=version, case=case.name, kind=found["kind"]):
                        kubernetes_validate.validate(found, version, strict=True)

    def test_every_custom_resource_has_only_known_fields_of_the_right_type(self):
        seen = set()
        for case in CASES:
            for found in objects(case):
                kind = f"{found['apiVersion']} {found['kind']}"
                if kind in CUSTOM:
                    seen.add(kind)
                    with self.subTest(case=case.name, kind=kind):
                        self.assertEqual(custom_faults(found), [])
        self.assertEqual(seen, {kind for kind in CUSTOM if not kind.startswith("trigger ")})

    def test_a_misspelt_or_mistyped_field_of_a_custom_resource_is_found(self):
        trigger = {"type": "nats-jetstream", "metadata": {"lagTreshold": "5", "lagThreshold": 5}}
        spec = {"scaleTargetRef": {"nme": "x"}, "minReplicaCount": "0", "maxReplicaCount": True, "triggers": [trigger]}
        found = custom_faults({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "spec": spec})
        self.assertEqual(len(found), 6, found)

    def test_names_of_objects_are_unique_and_fit_kubernetes(self):
        for case in CASES:
            names = [(found["kind"], found["metadata"]["name"]) for found in objects(case)]
            self.assertEqual(len(names), len(set(names)), case.name)
            for _, name in names:
                self.assertRegex(name, "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")

    def test_the_longest_names_still_fit(self):
        for flag in ("fullnameOverride", "nameOverride"):
            result = template("helm4", ROOT / "helm/cases/keda-drain.yaml", "--set", f"{flag}={'long-name-' * 8}")
            self.assertEqual(result.returncode, 0, result.stderr)
            for found in yaml.safe_load_all(result.stdout):
                self.assertLessEqual(len(found["metadata"]["name"]), 63)
                for label in found["metadata"]["labels"].values():
                    self.assertLessEqual(len(label), 63)

    def test_long_names_that_begin_alike_stay_different(self):
        def name(full):
            result = template("helm4", ROOT / "helm/cases/minimal.yaml", "--set", f"fullnameOverride={full}")
            [found] = [found for found in yaml.safe_load_all(result.stdout) if found["kind"] == "Deployment"]
            return found["metadata"]["name"]

        long = "n" * 50
        self.assertEqual(name(long), long)
        self.assertNotEqual(name(f"{long}-a"), name(f"{long}-b"))

    def test_names_that_look_like_numbers_are_strings(self):
        values = ("fullnameOverride=123", "nameOverride=456", "model.pvc.claimName=1e3", "serviceAccount.name=789")
        secret = ("secrets.s3Ca.name=12", "secrets.huggingFaceToken.key=0x1", "setup.serviceAccountName=34")
        flags = [flag for value in (*values, *secret) for flag in ("--set-string", value)]
        result = template("helm4", ROOT / "helm/cases/keda-drain.yaml", *flags)
        self.assertEqual(result.returncode, 0, result.stderr)
        for found in yaml.safe_load_all(result.stdout):
            if f"{found['apiVersion']} {found['kind']}" not in CUSTOM:
                kubernetes_validate.validate(found, NEWEST, strict=True)
            self.assertIsInstance(found["metadata"]["name"], str)
            self.assertTrue(all(isinstance(label, str) for label in found["metadata"]["labels"].values()))


class Values(unittest.TestCase):
    def test_optional_values_can_be_removed(self):
        optional = ("resources", "setup.resources", "strategy.rollingUpdate", "podSecurityContext", "networkPolicy.natsPorts")
        optional += ("networkPolicy.scalerFrom", "scaler.secrets", "model.directory", "autoscaling.keda.fallback", "tolerations")
        flags = [part for value in optional for part in ("--set", f"{value}=null")]
        for version in HELMS:
            result = template(version, ROOT / "helm/cases/keda-drain.yaml", *flags)
            self.assertEqual(result.returncode, 0, result.stderr)
            for found in yaml.safe_load_all(result.stdout):
                if found and f"{found['apiVersion']} {found['kind']}" not in CUSTOM:
                    kubernetes_validate.validate(found, NEWEST, strict=False)

    def test_the_schema_and_the_values_name_the_same_keys(self):
        def compare(values, schema, path):
            schema = self.resolved(schema)
            properties = schema.get("properties", {})
            for key, value in values.items():
                if schema.get("additionalProperties") is not False:
                    continue
                self.assertIn(key, properties, path)
                if isinstance(value, dict):
                    compare(value, properties[key], f"{path}.{key}")
            for key, part in properties.items():
                if "Not a value" not in part.get("description", "") and key != "global":
                    self.assertIn(key, values, f"{path}: in the schema, not in values.yaml")

        own = {name: {**VALUES[name], "secrets": VALUES["secrets"]} for name in ("setup", "ingest", "scaler")}
        values = {**VALUES, "settings": {}, **own}
        schema = {**SCHEMA, "properties": {**SCHEMA["properties"], "settings": {"properties": {}}}}
        compare(values, schema, "values")

    def test_an_unknown_key_is_rejected_at_every_level(self):
        validator = jsonschema.Draft7Validator(SCHEMA)
        levels = list(self.levels(SCHEMA, []))
        self.assertGreater(len(levels), 50)
        for path in levels:
            values = leaf = {}
            for key in path:
                leaf[key] = {}
                leaf = leaf[key]
            leaf["misspelt"] = 1
            with self.subTest(path=".".join(path)):
                self.assertTrue(any("misspelt" in fault.message for fault in validator.iter_errors(values)))

    def test_the_settings_are_those_of_the_program(self):
        result = program("settings", "--schema")
        self.assertEqual(result.returncode, 0, result.stderr)
        text = (CHART / "values.schema.json").read_text()
        self.assertEqual(text, with_settings(text, result.stdout), "run helm/test.sh --update")
        self.assertEqual(OF_THE_CHART - SCHEMA["definitions"].keys(), set())

    def test_wrong_values_are_rejected_with_a_sentence(self):
        rejections = yaml.safe_load((pathlib.Path(__file__).parent / "rejections.yaml").read_text())
        for rejection in rejections:
            values = merged(MINIMAL, rejection["values"]) if rejection.get("minimal", True) else rejection["values"]
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(values, file)
                file.flush()
                for version in HELMS:
                    with self.subTest(name=rejection["name"], version=version):
                        result = template(version, file.name, *rejection.get("flags", []))
                        self.assertNotEqual(result.returncode, 0)
                        said = sentences(result.stderr)
                        if "schema" in rejection:
                            self.assertIn("values don't meet the specifications of the schema", said)
                            self.assertIn(rejection["schema"], said)
                        for sentence in rejection.get("says", []):
                            self.assertIn(sentence, said)

    def resolved(self, schema):
        """The schema that a reference names."""
        reference = schema.get("allOf", [schema])[0].get("$ref")
        return SCHEMA["definitions"][reference.rsplit("/", 1)[1]] if reference else schema

    def levels(self, schema, path):
        """The paths of all objects of the chart's own."""
        schema = self.resolved(schema)
        if "properties" not in schema:
            return
        if not (path and path[-1] == "headers"):
            yield path
        for key, part in schema["properties"].items():
            yield from self.levels(part, [*path, key])


def merged(values, others):
    """Values with others, which win."""
    result = dict(values)
    for key, value in others.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


if __name__ == "__main__":
    unittest.main()
