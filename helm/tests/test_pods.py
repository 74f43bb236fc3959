"""What the pods may do, and how long they may take."""

import unittest

import yaml

from chart import CASES, CHART, of_kind, objects, pods, template

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

    def test_each_command_has_its_own_nats_user_and_inbox(self):
        texts = {found["metadata"]["name"]: found["data"]["groundling.toml"] for found in of_kind(case("keda-drain"), "ConfigMap")}
        name = "release-groundling"
        inboxes = {name: "worker", f"{name}-setup": "setup", f"{name}-test": "setup", f"{name}-scaler": "scaler"}
        self.assertEqual(texts.keys(), inboxes.keys())
        for name, inbox in inboxes.items():
            self.assertIn(f'inbox_prefix = "_INBOX_{inbox}"\n', texts[name])
        scaler = dict(pods(case("keda-drain")))["release-groundling-scaler"]
        variables = {variable["name"] for variable in scaler["containers"][0]["env"]}
        self.assertEqual(variables, {"GROUNDLING_SETTINGS", "GROUNDLING__NATS__NKEY"})
        self.assertEqual([volume["name"] for volume in scaler["volumes"]], ["settings"])
        [ingest] = [found for found in of_kind(case("ingest"), "ConfigMap") if found["metadata"]["name"].endswith("-ingest")]
        self.assertIn('inbox_prefix = "_INBOX_ingest"\n', ingest["data"]["groundling.toml"])

    def test_the_account_of_the_workers_is_that_of_no_other_pod(self):
        accounts = {name: spec.get("serviceAccountName") for name, spec in pods(case("ingest"))}
        accounts |= {f"drain {name}": spec.get("serviceAccountName") for name, spec in pods(case("keda-drain"))}
        of_workers = {"release-groundling", "drain release-groundling"}
        for name, account in accounts.items():
            self.assertEqual(account == "release-groundling", name in of_workers, name)
        self.assertEqual(accounts["release-groundling-ingest"], "ingest")
        self.assertEqual(accounts["drain release-groundling-scaler"], "scaler")


class Network(unittest.TestCase):
    def ports(self, name):
        """The ports that the pods of each policy of a case may reach, besides DNS."""
        return {
            found["metadata"]["name"]: [port["port"] for port in found["spec"]["egress"][1]["ports"]]
            for found in of_kind(case(name), "NetworkPolicy")
        }

    def test_the_addresses_of_the_settings_can_be_reached(self):
        # A port of the values, and those of nats.url, s3.endpoint and telemetry.endpoint.
        self.assertEqual(self.ports("everything"), {"annotators": [4223, 4222, 443, 4317]})
        name = "release-groundling"
        # The second address has the default port.
        self.assertEqual(self.ports("keda-drain"), {name: [4333, 4222, 443], f"{name}-scaler": [4333, 4222]})
        self.assertEqual(self.ports("ingest"), {name: [4222, 443], f"{name}-ingest": [4222]})

    def test_addresses_without_a_port_have_that_of_their_scheme(self):
        flags = ["networkPolicy.enabled=true", "settings.s3.endpoint=http://store/x:1", "networkPolicy.storePorts=null"]
        flags += ["settings.nats.url=tls://[::1]:4443", "settings.telemetry.endpoint=https://collector"]
        result = template("helm4", case("minimal"), *[part for flag in flags for part in ("--set", flag)])
        self.assertEqual(result.returncode, 0, result.stderr)
        [found] = [found for found in yaml.safe_load_all(result.stdout) if found["kind"] == "NetworkPolicy"]
        self.assertEqual([port["port"] for port in found["spec"]["egress"][1]["ports"]], [4443, 80, 443])

    def test_an_empty_list_of_callers_is_nobody(self):
        result = template("helm4", case("keda-drain"), "--set-json", "networkPolicy.scalerFrom=[]")
        self.assertEqual(result.returncode, 0, result.stderr)
        policies = [found for found in yaml.safe_load_all(result.stdout) if found["kind"] == "NetworkPolicy"]
        self.assertEqual([found["spec"]["ingress"] for found in policies], [[], []])


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
        # The rollout must not be called failed before the startup probe gives up.
        self.assertEqual(worker("minimal")["spec"]["progressDeadlineSeconds"], 10 * 90 + 300)

    def test_a_strategy_without_a_surge_has_no_section_for_it(self):
        result = template("helm4", case("minimal"), "--set", "strategy.type=Recreate")
        [found] = [found for found in yaml.safe_load_all(result.stdout) if found["kind"] == "Deployment"]
        self.assertEqual(found["spec"]["strategy"], {"type": "Recreate"})

    def test_the_setup_job_ends_before_helm_gives_up(self):
        [job] = of_kind(case("minimal"), "Job")
        self.assertLess(job["spec"]["activeDeadlineSeconds"], 300)
        arguments = {name: spec["containers"][0]["args"] for name, spec in pods(case("minimal"))}
        self.assertNotIn("--check", arguments["release-groundling-setup"])
        self.assertIn("--check", arguments["release-groundling-test"])
        for name in ("setup", "test"):
            spec = dict(pods(case("keda-drain")))[f"release-groundling-{name}"]
            self.assertEqual(spec["nodeSelector"], {"kubernetes.io/arch": "amd64"})
            self.assertEqual(spec["tolerations"], [{"key": "dedicated", "operator": "Exists"}])


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
        # The image's own value would show every GPU of the node.
        self.assertIn({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}, container("claims")["env"])
        self.assertNotIn("NVIDIA_VISIBLE_DEVICES", str(container("minimal")["env"]))

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
        result = template("helm4", case("minimal"), "--set", "model.directory=/x/")
        self.assertIn('path = "/model/x"\n', result.stdout)


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
            "urgent": ("GROUNDLING_JOBS", "18000"),
            "retries": ("GROUNDLING_RETRIES", "10000"),
            # max_deliver is set in this case.
            "advisories": ("GROUNDLING_ADVISORIES", "10000"),
        }
        self.assertEqual(lags, expected)
        consumers = {name: trigger["consumer"] for name, trigger in triggers.items()}
        self.assertEqual(consumers.pop("urgent"), "groundling-workers-urgent")
        self.assertEqual(set(consumers.values()), {"groundling-workers"})
        [found] = of_kind(case("everything"), "ScaledObject")
        triggers = {trigger["name"]: trigger["metadata"] for trigger in found["spec"]["triggers"]}
        self.assertEqual(list(triggers), ["jobs", "urgent", "retries"])
        urgent = triggers["urgent"]
        self.assertEqual((urgent["stream"], urgent["consumer"]), ("ANNOTATOR_JOBS", "annotators-urgent"))
        # One urgent job starts a worker, however many others are left to wait.
        self.assertEqual((triggers["jobs"]["activationLagThreshold"], urgent["activationLagThreshold"]), ("10", "0"))

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
