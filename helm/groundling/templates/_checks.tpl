{{/* Fails with one sentence for each problem of the values that the schema cannot name. */}}
{{- define "groundling.check" -}}
{{- $problems := concat
  (include "groundling.renamedValues" . | fromJsonArray)
  (include "groundling.providedSettings" . | fromJsonArray)
  (include "groundling.requiredValues" . | fromJsonArray)
  (include "groundling.conflicts" . | fromJsonArray)
  (include "groundling.conflictingSecrets" . | fromJsonArray)
  (include "groundling.conflictingObjects" . | fromJsonArray)
-}}
{{- if $problems -}}
{{- fail (printf "\n  %s" (join "\n  " $problems)) -}}
{{- end -}}
{{- end -}}

{{/* Values of other charts, or of earlier versions of this one. */}}
{{- define "groundling.renamedValues" -}}
{{- $renamed := dict
  "replicas" "replicaCount"
  "env" "extraEnv"
  "envFrom" "extraEnvFrom"
  "volumes" "extraVolumes"
  "volumeMounts" "extraVolumeMounts"
  "podLabels" "extraPodLabels"
  "podAnnotations" "extraPodAnnotations"
  "config" "settings"
  "serviceMonitor" "podMonitor (workers have no Service)"
  "keda" "autoscaling.keda"
  "hpa" "autoscaling.hpa"
  "terminationGracePeriodSeconds" "settings.worker.shutdown_timeout (the grace period is 30 s longer)"
-}}
{{- $problems := list -}}
{{- range $old, $new := $renamed -}}
{{- if hasKey $.Values $old -}}
{{- $problems = append $problems (printf "%s is not a value of this chart: use %s." $old $new) -}}
{{- end -}}
{{- end -}}
{{- range $old, $new := dict "enabled" "autoscaling.keda.enabled or autoscaling.hpa.enabled" "minReplicas" "autoscaling.keda.minReplicaCount or autoscaling.hpa.minReplicas" "maxReplicas" "autoscaling.keda.maxReplicaCount or autoscaling.hpa.maxReplicas" "targetCPUUtilizationPercentage" "autoscaling.hpa.metrics" -}}
{{- if hasKey $.Values.autoscaling $old -}}
{{- $problems = append $problems (printf "autoscaling.%s is not a value of this chart: use %s." $old $new) -}}
{{- end -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{/* Settings that the chart provides, and secrets, which must not be in a ConfigMap. */}}
{{- define "groundling.providedSettings" -}}
{{- $instead := dict
  "model.path" "choose the model with model.source"
  "worker.health_address" "use health.address and health.port"
  "worker.id" "the chart sets it to the name of the pod"
  "nats.user" "name a Secret in secrets.natsUser"
  "nats.password" "name a Secret in secrets.natsPassword; values and ConfigMaps are not secret"
  "nats.token" "name a Secret in secrets.natsToken; values and ConfigMaps are not secret"
  "nats.nkey" "name a Secret in secrets.natsNkey; values and ConfigMaps are not secret"
  "nats.credentials_file" "name a Secret in secrets.natsCredentials"
  "nats.tls.ca_file" "name a Secret in secrets.natsCa"
  "nats.tls.certificate_file" "name a Secret in secrets.natsClientCertificate"
  "nats.tls.key_file" "name a Secret in secrets.natsClientCertificate"
  "events.webhook_address" "use ingest.enabled and ingest.port"
  "events.health_address" "use health.address and health.port"
  "events.token" "name a Secret in ingest.webhook.token; values and ConfigMaps are not secret"
  "events.user" "name a Secret in ingest.webhook.user"
  "events.password" "name a Secret in ingest.webhook.password; values and ConfigMaps are not secret"
  "s3.access_key" "name a Secret in secrets.s3AccessKey"
  "s3.secret_key" "name a Secret in secrets.s3SecretKey; values and ConfigMaps are not secret"
  "s3.session_token" "name a Secret in secrets.s3SessionToken; values and ConfigMaps are not secret"
  "s3.ca_file" "name a Secret in secrets.s3Ca"
  "telemetry.headers" "name a Secret in secrets.telemetryHeaders; values and ConfigMaps are not secret"
  "telemetry.ca_file" "name a Secret in secrets.telemetryCa"
-}}
{{- $problems := list -}}
{{- range $setting, $sentence := $instead -}}
{{- $found := $.Values.settings -}}
{{- range splitList "." $setting -}}
{{- $found = ternary (get (default dict $found) .) nil (kindIs "map" $found) -}}
{{- end -}}
{{- if not (kindIs "invalid" $found) -}}
{{- if not (eq (toString $found) "") -}}
{{- $problems = append $problems (printf "settings.%s must not be set: %s." $setting $sentence) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $settings := $.Values.settings -}}
{{- range $address := list
  (dict "setting" "nats.url" "value" (default dict $settings.nats).url "instead" "secrets.natsUser and secrets.natsPassword")
  (dict "setting" "s3.endpoint" "value" (default dict $settings.s3).endpoint "instead" "secrets.s3AccessKey and secrets.s3SecretKey")
  (dict "setting" "telemetry.endpoint" "value" (default dict $settings.telemetry).endpoint "instead" "secrets.telemetryHeaders")
-}}
{{- if contains "@" (default "" .value) -}}
{{- $problems = append $problems (printf "settings.%s contains a user or password: name Secrets in %s; values and ConfigMaps are not secret." .setting .instead) -}}
{{- end -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{- define "groundling.requiredValues" -}}
{{- $problems := list -}}
{{- $values := .Values -}}
{{- $keda := $values.autoscaling.keda -}}
{{- $nats := default dict $values.settings.nats -}}
{{- $s3 := default dict $values.settings.s3 -}}
{{- $model := $values.model -}}
{{- if not $values.image.repository -}}
{{- $problems = append $problems "image.repository is not set: name the repository of the images, without a tag." -}}
{{- end -}}
{{- if not $nats.url -}}
{{- $problems = append $problems "settings.nats.url is not set: give the address of the NATS server, such as nats://nats.nats.svc:4222." -}}
{{- end -}}
{{- if not $s3.allow -}}
{{- $problems = append $problems "settings.s3.allow is not set: list the buckets, or prefixes such as pictures/2024/, that jobs may read." -}}
{{- end -}}
{{- if not $model.source -}}
{{- $problems = append $problems "model.source is not set: choose pvc, image, s3, hf or hostPath." -}}
{{- end -}}
{{- if and (eq $model.source "pvc") (not $model.pvc.claimName) -}}
{{- $problems = append $problems "model.pvc.claimName is not set: name the persistent volume claim that holds the model." -}}
{{- end -}}
{{- if and (eq $model.source "image") (not $model.image.reference) -}}
{{- $problems = append $problems "model.image.reference is not set: name the image that holds the model." -}}
{{- end -}}
{{- if and (eq $model.source "s3") (not (hasPrefix "s3://" (default "" $model.s3.uri))) -}}
{{- $problems = append $problems "model.s3.uri is not set: give the model's address as s3://bucket/prefix." -}}
{{- end -}}
{{- if and (eq $model.source "hf") (not (and $model.hf.repository $model.hf.revision)) -}}
{{- $problems = append $problems "model.hf needs repository (owner/name) and revision (a commit, so that every worker has the same weights)." -}}
{{- end -}}
{{- if and (eq $model.source "hostPath") (not $model.hostPath.path) -}}
{{- $problems = append $problems "model.hostPath.path is not set: give the directory of the model on the nodes." -}}
{{- end -}}
{{- if $keda.enabled -}}
{{- if eq $keda.trigger "nats-jetstream" -}}
{{- if not $keda.lagThreshold -}}
{{- $problems = append $problems "autoscaling.keda.lagThreshold is not set: give the number of waiting jobs for each worker; a good start is jobs per second of a worker × seconds that may pass until the backlog is drained." -}}
{{- end -}}
{{- if not $keda.monitoringEndpoint -}}
{{- $problems = append $problems "autoscaling.keda.monitoringEndpoint is not set: give host:port of the NATS server's monitoring, such as nats-headless.nats.svc:8222." -}}
{{- end -}}
{{- else -}}
{{- if not $keda.targetDrainSeconds -}}
{{- $problems = append $problems "autoscaling.keda.targetDrainSeconds is not set: give the seconds within which the backlog should be drained." -}}
{{- end -}}
{{- if not $keda.jobsPerSecond -}}
{{- $problems = append $problems "autoscaling.keda.jobsPerSecond is not set: give the jobs per second of a worker, as `groundling bench --through-worker` measures them; the scaler replaces it with its own measurement." -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.ingest.enabled (not $values.settings.ingest) -}}
{{- $problems = append $problems "settings.ingest is empty: list the rules of groundling ingest, or set ingest.enabled to false." -}}
{{- end -}}
{{- if and $values.autoscaling.hpa.enabled (not $values.autoscaling.hpa.metrics) -}}
{{- $problems = append $problems "autoscaling.hpa.metrics is empty: list the metrics of autoscaling/v2 to scale by. CPU utilization does not show the load of a GPU." -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{/* Not empty if there is a subject that both patterns of subjects, .first and .second, match. */}}
{{- define "groundling.subjectsOverlap" -}}
{{- $firsts := splitList "." .first -}}
{{- $seconds := splitList "." .second -}}
{{- $found := "" -}}
{{- range $number := until (max (len $firsts) (len $seconds) | int) -}}
{{- if not $found -}}
{{- if or (ge $number (len $firsts)) (ge $number (len $seconds)) -}}
{{- $found = "no" -}}
{{- else -}}
{{- $first := index $firsts $number -}}
{{- $second := index $seconds $number -}}
{{- if or (eq $first ">") (eq $second ">") -}}
{{- $found = "yes" -}}
{{- else if not (or (eq $first $second) (eq $first "*") (eq $second "*")) -}}
{{- $found = "no" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if ne $found "no" -}}yes{{- end -}}
{{- end -}}

{{- define "groundling.conflicts" -}}
{{- $problems := list -}}
{{- $values := .Values -}}
{{- $keda := $values.autoscaling.keda -}}
{{- if and $keda.enabled $values.autoscaling.hpa.enabled -}}
{{- $problems = append $problems "autoscaling.keda and autoscaling.hpa are both enabled: KEDA creates a HorizontalPodAutoscaler of its own, so enable only one." -}}
{{- end -}}
{{- if and $keda.enabled (gt (int $keda.minReplicaCount) (int $keda.maxReplicaCount)) -}}
{{- $problems = append $problems "autoscaling.keda.minReplicaCount is larger than maxReplicaCount." -}}
{{- end -}}
{{- if and $values.autoscaling.hpa.enabled (gt (int $values.autoscaling.hpa.minReplicas) (int $values.autoscaling.hpa.maxReplicas)) -}}
{{- $problems = append $problems "autoscaling.hpa.minReplicas is larger than maxReplicas." -}}
{{- end -}}
{{- if and $values.setup.enabled $values.nack.enabled -}}
{{- $problems = append $problems "setup.enabled and nack.enabled would both create the streams: set setup.enabled to false to leave them to NACK." -}}
{{- end -}}
{{- if and (gt (int $values.gpu.count) 0) $values.resourceClaims -}}
{{- $problems = append $problems "gpu.count and resourceClaims would both request GPUs: set gpu.count to 0 to use resourceClaims." -}}
{{- end -}}
{{- if and (eq $values.model.source "image") (semverCompare "<1.31.0-0" .Capabilities.KubeVersion.Version) -}}
{{- $problems = append $problems (printf "model.source \"image\" needs Kubernetes 1.31 or newer, and the cluster has %s: use pvc, s3 or hf." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if ne (empty $values.ingest.webhook.user.name) (empty $values.ingest.webhook.password.name) -}}
{{- $problems = append $problems "ingest.webhook.user and ingest.webhook.password belong together: set both or neither." -}}
{{- end -}}
{{- if and $values.ingest.enabled (eq (int $values.ingest.port) (int $values.health.port)) -}}
{{- $problems = append $problems "ingest.port is health.port: give the webhook server a port of its own." -}}
{{- end -}}
{{- range $rule := $values.settings.ingest -}}
{{- if and $rule.path (not $values.ingest.enabled) -}}
{{- $problems = append $problems (printf "settings.ingest has a rule with the path %s, and ingest.enabled is false: enable it, or remove the rule." $rule.path) -}}
{{- end -}}
{{- end -}}
{{- $paths := list -}}
{{- $subjects := list -}}
{{- range $rule := $values.settings.ingest -}}
{{- with $rule.path -}}{{- $paths = append $paths . -}}{{- end -}}
{{- with $rule.subject -}}{{- $subjects = append $subjects . -}}{{- end -}}
{{- end -}}
{{- if and $paths $values.ingest.enabled $values.networkPolicy.enabled (not $values.networkPolicy.ingestFrom) -}}
{{- $problems = append $problems (printf "networkPolicy.ingestFrom is empty, so no store could reach the path %s of settings.ingest: list who may send events." (first $paths)) -}}
{{- end -}}
{{- if $values.nack.enabled -}}
{{- $subjects = $subjects | uniq | sortAlpha -}}
{{- range $number, $first := $subjects -}}
{{- range $second := slice $subjects (add1 $number | int) -}}
{{- if include "groundling.subjectsOverlap" (dict "first" $first "second" $second) -}}
{{- $problems = append $problems (printf "settings.ingest has the subjects %s and %s, which overlap, and NATS refuses a stream with both: write the one that covers the other in both rules, or let setup.enabled create the streams instead of nack.enabled." $first $second) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{/* Secrets that do not fit together: those of the workers, and those of each command with its own NATS user. */}}
{{- define "groundling.conflictingSecrets" -}}
{{- $problems := list -}}
{{- $root := . -}}
{{- $secrets := .Values.secrets -}}
{{- $users := list (dict "name" "secrets" "secrets" $secrets "pairs" (list (list "natsUser" "natsPassword") (list "s3AccessKey" "s3SecretKey"))) -}}
{{- range $command, $why := dict
  "setup" "setup connects only to NATS"
  "ingest" "ingest has a NATS user of its own, and shares the other secrets"
  "scaler" "the scaler connects only to NATS"
-}}
{{- $own := default dict (get $root.Values $command).secrets -}}
{{- range $name, $secret := $own -}}
{{- if not (hasPrefix "nats" $name) -}}
{{- $problems = append $problems (printf "%s.secrets.%s has no effect: %s." $command $name $why) -}}
{{- end -}}
{{- end -}}
{{- if $own -}}
{{- $merged := include "groundling.ownSecrets" (dict "root" $root "own" $own) | fromJson -}}
{{- $users = append $users (dict "name" (printf "%s.secrets" $command) "secrets" $merged "pairs" (list (list "natsUser" "natsPassword"))) -}}
{{- end -}}
{{- end -}}
{{- range $user := $users -}}
{{- $authentications := list -}}
{{- range list "natsPassword" "natsToken" "natsNkey" "natsCredentials" -}}
{{- if (default dict (get $user.secrets .)).name -}}
{{- $authentications = append $authentications (printf "%s.%s" $user.name .) -}}
{{- end -}}
{{- end -}}
{{- if gt (len $authentications) 1 -}}
{{- $problems = append $problems (printf "%s are all set, and a NATS connection is authenticated in one way: keep one of them." (join " and " $authentications)) -}}
{{- end -}}
{{- range $pair := $user.pairs -}}
{{- if ne (empty (default dict (get $user.secrets (first $pair))).name) (empty (default dict (get $user.secrets (last $pair))).name) -}}
{{- $problems = append $problems (printf "%s.%s and %s.%s belong together: set both or neither." $user.name (first $pair) $user.name (last $pair)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $secrets.s3SessionToken.name (not $secrets.s3AccessKey.name) -}}
{{- $problems = append $problems "secrets.s3SessionToken belongs to a temporary access key: set secrets.s3AccessKey and secrets.s3SecretKey, too." -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{/* Values with which Kubernetes would refuse an object. */}}
{{- define "groundling.conflictingObjects" -}}
{{- $problems := list -}}
{{- $values := .Values -}}
{{- $rolling := default dict $values.strategy.rollingUpdate -}}
{{- $isNone := "^0%?$" -}}
{{- if and (ne (default "" $values.strategy.type) "Recreate") (regexMatch $isNone (toString $rolling.maxSurge)) (regexMatch $isNone (toString $rolling.maxUnavailable)) -}}
{{- $problems = append $problems "strategy.rollingUpdate.maxSurge and maxUnavailable are both 0, so no worker could ever be replaced: raise one of them." -}}
{{- end -}}
{{- $device := default "" (default dict $values.settings.model).device -}}
{{- if and (contains "cuda" $device) (not (include "groundling.usesGpu" .)) -}}
{{- $problems = append $problems (printf "settings.model.device is %s, and workers have no GPU: set gpu.count or resourceClaims, or remove the setting." $device) -}}
{{- end -}}
{{- $selectors := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" -}}
{{- $labels := concat $selectors (list "helm.sh/chart" "app.kubernetes.io/version" "app.kubernetes.io/managed-by") -}}
{{- range $check := list
  (dict "value" "extraPodLabels" "own" $values.extraPodLabels "labels" $selectors)
  (dict "value" "extraDeploymentLabels" "own" $values.extraDeploymentLabels "labels" $labels)
-}}
{{- range $label, $text := $check.own -}}
{{- if has $label $check.labels -}}
{{- $problems = append $problems (printf "%s must not set %s: the chart sets this label itself." $check.value $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}
