{{/* Environment from Secrets. Takes `secrets` (as in the values) and `of`: "nats" for commands that connect only to NATS,
"ingest" for those of telemetry as well, "worker" for all. */}}
{{- define "groundling.secretEnv" -}}
{{- $variables := dict
  "natsUser" "GROUNDLING__NATS__USER"
  "natsPassword" "GROUNDLING__NATS__PASSWORD"
  "natsToken" "GROUNDLING__NATS__TOKEN"
  "natsNkey" "GROUNDLING__NATS__NKEY"
-}}
{{- if eq .of "worker" -}}
{{- $variables = merge $variables (dict
  "s3AccessKey" "GROUNDLING__S3__ACCESS_KEY"
  "s3SecretKey" "GROUNDLING__S3__SECRET_KEY"
  "s3SessionToken" "GROUNDLING__S3__SESSION_TOKEN"
  "huggingFaceToken" "HF_TOKEN") -}}
{{- end -}}
{{- if ne .of "nats" -}}
{{- $variables = merge $variables (dict "telemetryHeaders" "OTEL_EXPORTER_OTLP_HEADERS") -}}
{{- end -}}
{{- $secrets := .secrets -}}
{{- range $name, $variable := $variables }}
{{- $secret := index $secrets $name }}
{{- if $secret.name }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret.name | quote }}
      key: {{ $secret.key | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Files from Secrets: name, the Secret's keys and the files' names. */}}
{{- define "groundling.secretFiles" -}}
{{- $secrets := .secrets -}}
{{- $files := list -}}
{{- with $secrets.natsCa }}{{- if .name }}
{{- $files = append $files (dict "volume" "nats-ca" "secret" .name "items" (list (dict "key" .key "path" "ca.crt"))) -}}
{{- end }}{{- end }}
{{- with $secrets.natsClientCertificate }}{{- if .name }}
{{- $files = append $files (dict "volume" "nats-client" "secret" .name "items" (list (dict "key" .certificate "path" "tls.crt") (dict "key" .privateKey "path" "tls.key"))) -}}
{{- end }}{{- end }}
{{- with $secrets.natsCredentials }}{{- if .name }}
{{- $files = append $files (dict "volume" "nats-credentials" "secret" .name "items" (list (dict "key" .key "path" "user.creds"))) -}}
{{- end }}{{- end }}
{{- if eq .of "worker" }}
{{- with $secrets.s3Ca }}{{- if .name }}
{{- $files = append $files (dict "volume" "s3-ca" "secret" .name "items" (list (dict "key" .key "path" "ca.crt"))) -}}
{{- end }}{{- end }}
{{- end }}
{{- if ne .of "nats" }}
{{- with $secrets.telemetryCa }}{{- if .name }}
{{- $files = append $files (dict "volume" "telemetry-ca" "secret" .name "items" (list (dict "key" .key "path" "ca.crt"))) -}}
{{- end }}{{- end }}
{{- end }}
{{- toJson $files -}}
{{- end -}}

{{- define "groundling.secretMounts" -}}
{{- range include "groundling.secretFiles" . | fromJsonArray }}
- name: {{ .volume }}
  mountPath: /etc/groundling-secrets/{{ .volume }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "groundling.secretVolumes" -}}
{{- range include "groundling.secretFiles" . | fromJsonArray }}
- name: {{ .volume }}
  secret:
    secretName: {{ .secret | quote }}
    # Read by the group of podSecurityContext.fsGroup.
    defaultMode: 0440
    items: {{- toYaml .items | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Environment of every command. */}}
{{- define "groundling.commonEnv" -}}
- name: GROUNDLING_SETTINGS
  value: /etc/groundling/groundling.toml
{{- with .Values.logFilter }}
- name: RUST_LOG
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "groundling.modelMount" -}}
{{- if has .Values.model.source (list "s3" "hf") }}
- name: model-cache
  mountPath: /cache
{{- else }}
- name: model
  mountPath: /model
  readOnly: true
{{- end }}
{{- end -}}

{{- define "groundling.modelVolume" -}}
{{- $model := .Values.model -}}
{{- if has $model.source (list "s3" "hf") }}
- name: model-cache
  {{- if $model.cache.claimName }}
  persistentVolumeClaim:
    claimName: {{ $model.cache.claimName | quote }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ $model.cache.sizeLimit | quote }}
  {{- end }}
{{- else if eq $model.source "pvc" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ $model.pvc.claimName | quote }}
    readOnly: true
{{- else if eq $model.source "image" }}
- name: model
  image:
    reference: {{ $model.image.reference | quote }}
    pullPolicy: {{ $model.image.pullPolicy }}
{{- else if eq $model.source "hostPath" }}
- name: model
  hostPath:
    path: {{ $model.hostPath.path | quote }}
    type: Directory
{{- end }}
{{- end -}}

{{/* Requests and limits of a worker, with its GPUs. */}}
{{- define "groundling.workerResources" -}}
{{- $resources := deepCopy (default dict .Values.resources) -}}
{{- if gt (int .Values.gpu.count) 0 -}}
{{- $gpus := dict .Values.gpu.resourceName (int .Values.gpu.count) -}}
{{- $_ := set $resources "limits" (mergeOverwrite $gpus (default dict $resources.limits)) -}}
{{- end -}}
{{- if .Values.resourceClaims -}}
{{- $claims := list -}}
{{- range .Values.resourceClaims -}}
{{- $claims = append $claims (dict "name" .name) -}}
{{- end -}}
{{- $_ := set $resources "claims" $claims -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
