"""What the pods may do, and how long they may take."""

import unittest

import yaml

from chart import CASES, CHART, of_kind, objects, pods

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def case(name):
    return next(case for case in CASES if case.stem == name)


def worker(name):
    """The worker's Deployment of a case."""
    [found] = [
        found
        for found in of_kind(case(name), "Deployment")
        if found["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"
    ]
    return found


def pod(name):
    return worker(name)["spec"]["template"]["spec"]


def container(name):
    [found] = pod(name)["containers"]
    return found


class Security(unittest.TestCase):
    def test_no_pod_is_root_or_can_write_its_image_or_call_kubernetes(self):
        for path in CASES:
            for name, spec in pods(path):
                with self.subTest(case=path.name, pod=name):
                    self.assertIs(spec["automountServiceAccountToken"], False)
                    self.assertIs(spec["enableServiceLinks"], False)
                    self.assertEqual(spec["securityContext"]["runAsUser"], 65532)
                    self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
                    for found in spec["containers"]:
                        context = found["securityContext"]
                        self.assertIs(context["readOnlyRootFilesystem"], True)
                        self.assertIs(context["allowPrivilegeEscalation"], False)
                        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})

    def test_every_volume_is_used_and_every_mount_has_a_volume(self):
        for path in CASES:
            for name, spec in pods(path):
                volumes = {volume["name"] for volume in spec["volumes"]}
                mounts = {mount["name"] for found in spec["containers"] for mount in found["volumeMounts"]}
                self.assertEqual(volumes, mounts, f"{path.name} {name}")

    def test_secrets_come_by_name_only(self):
        for path in CASES:
            self.assertEqual(of_kind(path, "Secret"), [])
            for name, spec in pods(path):
                for found in spec["containers"]:
                    for variable in found["env"]:
                        if variable["name"].startswith("GROUNDLING__") or variable["name"] == "HF_TOKEN":
                            self.assertNotIn("value", variable, f"{path.name} {name}")

    def test_files_of_secrets_are_where_the_settings_say(self):
        for path in CASES:
            texts = {found["metadata"]["name"]: found["data"]["groundling.toml"] for found in of_kind(path, "ConfigMap")}
            for name, spec in pods(path):
                files = {
                    f"/etc/groundling-secrets/{volume['name']}/{item['path']}"
                    for volume in spec["volumes"]
                    for item in volume.get("secret", {}).get("items", [])
                }
                [settings] = [volume["configMap"]["name"] for volume in spec["volumes"] if volume["name"] == "settings"]
                for file in files:
                    self.assertIn(f'"{file}"', texts[settings], f"{path.name} {name}")

    def test_an_administrators_authentication_replaces_that_of_the_workers(self):
        setup = dict(pods(case("keda-drain")))["release-groundling-setup"]
        variables = {variable["name"] for variable in setup["containers"][0]["env"]}
        self.assertEqual(variables, {"GROUNDLING_SETTINGS", "GROUNDLING__NATS__USER", "GROUNDLING__NATS__PASSWORD"})
        self.assertEqual([volume["name"] for volume in setup["volumes"]], ["settings"])


class Ingest(unittest.TestCase):
    def test_ingest_has_its_own_user_and_the_credentials_of_senders(self):
        found = dict(pods(case("ingest")))["release-groundling-ingest"]
        variables = {variable["name"] for variable in found["containers"][0]["env"]}
        events = {f"GROUNDLING__EVENTS__{name}" for name in ("TOKEN", "USER", "PASSWORD")}
        common = {"GROUNDLING_SETTINGS", "GROUNDLING__WORKER__ID", "OTEL_EXPORTER_OTLP_HEADERS"}
        self.assertEqual(variables, events | common)
        volumes = {volume["name"] for volume in found["volumes"]}
        self.assertEqual(volumes, {"settings", "nats-ca", "nats-credentials", "telemetry-ca"})
        self.assertIn("GROUNDLING__NATS__NKEY", {variable["name"] for variable in container("ingest")["env"]})

    def test_the_service_leads_to_the_port_of_the_webhook_server(self):
        [service] = of_kind(case("ingest"), "Service")
        [port] = service["spec"]["ports"]
        found = dict(pods(case("ingest")))["release-groundling-ingest"]["containers"][0]
        ports = {entry["name"]: entry["containerPort"] for entry in found["ports"]}
        self.assertEqual((port["port"], ports[port["targetPort"]]), (8090, 8090))
        texts = {entry["metadata"]["name"]: entry["data"]["groundling.toml"] for entry in of_kind(case("ingest"), "ConfigMap")}
        self.assertIn('webhook_address = "0.0.0.0:8090"', texts["release-groundling-ingest"])
        self.assertEqual(texts["release-groundling-ingest"].count("[[ingest]]"), 3)

    def test_workers_do_not_restart_when_a_rule_changes(self):
        texts = {entry["metadata"]["name"]: entry["data"]["groundling.toml"] for entry in of_kind(case("ingest"), "ConfigMap")}
        self.assertNotIn("ingest", texts["release-groundling"])
        self.assertNotIn("events", texts["release-groundling"])


class Lifetime(unittest.TestCase):
    def test_the_grace_period_is_the_shutdown_timeout_and_30_seconds(self):
        expected = {"minimal": 330, "spot": 50, "cpu": 120, "everything": 55}
        for name, seconds in expected.items():
            self.assertEqual(pod(name)["terminationGracePeriodSeconds"], seconds, name)

    def test_a_worker_has_15_minutes_to_load_and_45_seconds_to_be_declared_dead(self):
        found = container("minimal")
        probes = [found[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")]
        self.assertEqual([probe["httpGet"]["path"] for probe in probes], ["/startupz", "/livez", "/readyz"])
        self.assertEqual({probe["httpGet"]["port"] for probe in probes}, {"health"})
        times = [(probe["periodSeconds"], probe["failureThreshold"]) for probe in probes]
        self.assertEqual(times, [(10, 90), (15, 3), (10, 3)])


class Devices(unittest.TestCase):
    def test_workers_without_gpus_use_the_cpu_image(self):
        found = container("cpu")
        self.assertRegex(found["image"], "^registry.example/groundling@sha256:0123456789abcdef")
        self.assertNotIn("nvidia.com/gpu", str(worker("cpu")))

    def test_gpus_are_limits_of_the_chosen_resource(self):
        self.assertEqual(container("minimal")["image"], "registry.example/groundling:0.1.0-cuda")
        self.assertEqual(container("minimal")["resources"]["limits"]["nvidia.com/gpu"], 1)
        limits = container("everything")["resources"]["limits"]
        self.assertEqual(limits["nvidia.com/mig-3g.40gb"], 2)
        self.assertNotIn("nvidia.com/gpu", limits)

    def test_claims_replace_requests_for_gpus(self):
        self.assertEqual(pod("claims")["resourceClaims"], [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}])
        self.assertEqual(container("claims")["resources"]["claims"], [{"name": "gpu"}])
        self.assertNotIn("nvidia.com/gpu", container("claims")["resources"]["limits"])
        self.assertEqual(container("claims")["image"], "registry.example/groundling:0.1.0-cuda")

    def test_kueue_finds_its_queue_on_the_deployment_and_its_pods(self):
        label = ("kueue.x-k8s.io/queue-name", "annotate")
        self.assertIn(label, worker("claims")["metadata"]["labels"].items())
        self.assertIn(label, worker("claims")["spec"]["template"]["metadata"]["labels"].items())

    def test_each_source_of_the_model_is_mounted_or_named(self):
        def volume(name, of):
            return next(found for found in pod(name)["volumes"] if found["name"] == of)

        self.assertEqual(volume("minimal", "model")["persistentVolumeClaim"], {"claimName": "kosmos-2", "readOnly": True})
        self.assertEqual(volume("hpa", "model")["image"]["reference"], "registry.example/models/kosmos-2:2024-01")
        self.assertEqual(volume("cpu", "model")["hostPath"], {"path": "/srv/models", "type": "Directory"})
        self.assertEqual(volume("spot", "model-cache")["emptyDir"], {"sizeLimit": "8Gi"})
        self.assertEqual(volume("keda-drain", "model-cache")["persistentVolumeClaim"], {"claimName": "models"})
        paths = {
            "minimal": "/model",
            "hpa": "/model/kosmos-2",
            "cpu": "/model/kosmos-2",
            "spot": "s3://models/kosmos-2",
            "keda-drain": "hf://microsoft/kosmos-2-patch14-224@0123456789abcdef0123456789abcdef01234567",
        }
        for name, path in paths.items():
            [settings] = [
                found for found in of_kind(case(name), "ConfigMap") if found["metadata"]["name"] == "release-groundling"
            ]
            self.assertIn(f'path = "{path}"\n', settings["data"]["groundling.toml"], name)


class Scaling(unittest.TestCase):
    def test_an_autoscaler_alone_decides_on_the_number_of_workers(self):
        for name in ("keda-lag", "keda-drain", "hpa", "everything"):
            self.assertNotIn("replicas", worker(name)["spec"], name)
        self.assertEqual([worker(name)["spec"]["replicas"] for name in ("minimal", "cpu", "spot")], [1, 0, 6])

    def test_the_defaults_of_keda_let_no_idle_worker_run(self):
        [found] = of_kind(case("keda-lag"), "ScaledObject")
        spec = found["spec"]
        keys = ("minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "fallback")
        expected = [0, 10, 15, 600, {"failureThreshold": 3, "replicas": 1}]
        self.assertEqual([spec[key] for key in keys], expected)

    def test_jobs_retries_and_advisories_keep_a_worker(self):
        [found] = of_kind(case("keda-lag"), "ScaledObject")
        triggers = {trigger["name"]: trigger["metadata"] for trigger in found["spec"]["triggers"]}
        lags = {name: (trigger["stream"], trigger["lagThreshold"]) for name, trigger in triggers.items()}
        expected = {
            "jobs": ("GROUNDLING_JOBS", "18000"),
            "retries": ("GROUNDLING_RETRIES", "10000"),
            # max_deliver is set in this case.
            "advisories": ("GROUNDLING_ADVISORIES", "10000"),
        }
        self.assertEqual(lags, expected)
        self.assertEqual({trigger["consumer"] for trigger in triggers.values()}, {"groundling-workers"})
        [found] = of_kind(case("everything"), "ScaledObject")
        self.assertEqual([trigger["name"] for trigger in found["spec"]["triggers"]], ["jobs", "retries"])

    def test_the_trigger_on_drain_time_names_the_service_of_the_scaler(self):
        [found] = of_kind(case("keda-drain"), "ScaledObject")
        [trigger] = found["spec"]["triggers"]
        [service] = of_kind(case("keda-drain"), "Service")
        [port] = service["spec"]["ports"]
        address = f"{service['metadata']['name']}.annotate.svc:{port['port']}"
        expected = {"scalerAddress": address, "targetDrainSeconds": "900", "jobsPerSecond": "62.5"}
        self.assertEqual(trigger["metadata"], expected)
        [scaler] = [found for found in of_kind(case("keda-drain"), "Deployment") if "scaler" in found["metadata"]["name"]]
        labels = scaler["spec"]["template"]["metadata"]["labels"]
        self.assertEqual(service["spec"]["selector"].items() - labels.items(), set())
        [found] = scaler["spec"]["template"]["spec"]["containers"]
        self.assertEqual(found["args"][:3], ["scaler", "--listen", "0.0.0.0:50051"])
        self.assertEqual(found["image"], "registry.example/groundling:0.1.0")

    def test_selectors_choose_workers_and_nothing_else(self):
        for path in CASES:
            labels = {
                found["metadata"]["labels"]["app.kubernetes.io/component"]: found["spec"]["template"]["metadata"]["labels"]
                for found in of_kind(path, "Deployment", "Job")
            }
            for found in objects(path):
                if found["kind"] in ("PodDisruptionBudget", "PodMonitor", "Deployment"):
                    component = found["metadata"]["labels"].get("app.kubernetes.io/component", "worker")
                    selector = found["spec"]["selector"]["matchLabels"].items()
                    chosen = {name for name, of_pod in labels.items() if not selector - of_pod.items()}
                    self.assertEqual(chosen, {component}, f"{path.name} {found['kind']}")


if __name__ == "__main__":
    unittest.main()
