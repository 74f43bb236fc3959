{{/* Milliseconds of a duration in the form of the settings ("1m 30s"). */}}
{{- define "groundling.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "sec" 1000 "second" 1000 "seconds" 1000 "m" 60000 "min" 60000 "mins" 60000 "minute" 60000 "minutes" 60000 "h" 3600000 "hr" 3600000 "hrs" 3600000 "hour" 3600000 "hours" 3600000 "d" 86400000 "day" 86400000 "days" 86400000 "w" 604800000 "week" 604800000 "weeks" 604800000 -}}
{{- $text := toString .value -}}
{{- $milliseconds := 0 -}}
{{- if not (regexMatch "^ *([0-9]+ *[a-z]+ *)+$" $text) -}}
{{- fail (printf "settings.%s is %q, which is not a duration: write a number and a unit, such as \"30s\" or \"1m 30s\"." .setting $text) -}}
{{- end -}}
{{- range regexFindAll "[0-9]+ *[a-z]+" $text -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- if not (hasKey $units $unit) -}}
{{- fail (printf "settings.%s is %q, and the unit %q is not known to the chart: use ms, s, m, h, d or w." $.setting $text $unit) -}}
{{- end -}}
{{- $milliseconds = add $milliseconds (mul (regexFind "[0-9]+" . | int64) (get $units $unit)) -}}
{{- end -}}
{{- $milliseconds -}}
{{- end -}}

{{/* The worker's shutdown_timeout: from the settings, or the preset, or the program's default. */}}
{{- define "groundling.shutdownTimeout" -}}
{{- $worker := default dict .Values.settings.worker -}}
{{- default (ternary "20s" "5m" (eq .Values.preset "spot")) $worker.shutdown_timeout -}}
{{- end -}}

{{- define "groundling.gracePeriod" -}}
{{- $timeout := include "groundling.milliseconds" (dict "setting" "worker.shutdown_timeout" "value" (include "groundling.shutdownTimeout" .)) -}}
{{- div (add (int64 $timeout) 30999) 1000 -}}
{{- end -}}

{{- define "groundling.modelPath" -}}
{{- $model := .Values.model -}}
{{- if eq $model.source "s3" -}}
{{- $model.s3.uri -}}
{{- else if eq $model.source "hf" -}}
{{- printf "hf://%s@%s" $model.hf.repository $model.hf.revision -}}
{{- else -}}
{{- printf "/model/%s" (trimAll "/" (default "" $model.directory)) | trimSuffix "/" -}}
{{- end -}}
{{- end -}}

{{/* The settings of the values with those that the chart provides, as YAML. */}}
{{- define "groundling.settings" -}}
{{- $secrets := .Values.secrets -}}
{{- $device := ternary "cuda" "cpu" (eq "true" (include "groundling.usesGpu" .)) -}}
{{- $worker := dict "health_address" (printf "%s:%d" .Values.health.address (int .Values.health.port)) -}}
{{- if eq .Values.preset "spot" -}}
{{- $_ := set $worker "shutdown_timeout" (include "groundling.shutdownTimeout" .) -}}
{{- end -}}
{{- $tls := dict -}}
{{- if $secrets.natsCa.name -}}
{{- $_ := set $tls "ca_file" "/etc/groundling-secrets/nats-ca/ca.crt" -}}
{{- end -}}
{{- if $secrets.natsClientCertificate.name -}}
{{- $_ := set $tls "certificate_file" "/etc/groundling-secrets/nats-client/tls.crt" -}}
{{- $_ := set $tls "key_file" "/etc/groundling-secrets/nats-client/tls.key" -}}
{{- end -}}
{{- $nats := dict -}}
{{- if $secrets.natsCredentials.name -}}
{{- $_ := set $nats "credentials_file" "/etc/groundling-secrets/nats-credentials/user.creds" -}}
{{- end -}}
{{- if $tls -}}
{{- $_ := set $nats "tls" $tls -}}
{{- end -}}
{{- $provided := dict
  "model" (dict "path" (include "groundling.modelPath" .))
  "worker" $worker
  "nats" $nats
  "s3" (ternary dict (dict "ca_file" "/etc/groundling-secrets/s3-ca/ca.crt") (empty $secrets.s3Ca.name))
  "telemetry" (ternary dict (dict "ca_file" "/etc/groundling-secrets/telemetry-ca/ca.crt") (empty $secrets.telemetryCa.name))
-}}
{{- if .Values.ingest.enabled -}}
{{- $_ := set $provided "events" (dict
  "webhook_address" (printf "%s:%d" .Values.health.address (int .Values.ingest.port))
  "health_address" (printf "%s:%d" .Values.health.address (int .Values.health.port))) -}}
{{- end -}}
{{- $defaults := dict "model" (dict "device" $device) -}}
{{- toYaml (mergeOverwrite $defaults (deepCopy .Values.settings) $provided) -}}
{{- end -}}

{{/* A table in TOML: its values first, then its tables and lists of tables, each in alphabetical order. JSON strings and
arrays of strings are also TOML. */}}
{{- define "groundling.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value) (include "groundling.isTableList" $value)) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if and (kindIs "map" $value) $value }}
{{- $name := ternary $key (printf "%s.%s" $path $key) (eq $path "") }}

[{{ $name }}]
{{- include "groundling.toml" (dict "path" $name "table" $value) }}
{{- else if include "groundling.isTableList" $value }}
{{- range $value }}

[[{{ ternary $key (printf "%s.%s" $path $key) (eq $path "") }}]]
{{- include "groundling.toml" (dict "path" $key "table" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* "true" for a list of maps. */}}
{{- define "groundling.isTableList" -}}
{{- if kindIs "slice" . -}}{{- if . -}}{{- if kindIs "map" (first .) -}}true{{- end -}}{{- end -}}{{- end -}}
{{- end -}}

{{/* A text as a block of a ConfigMap's data. */}}
{{- define "groundling.settingsBlock" -}}
{{- regexReplaceAll "(?m)^ +$" (nindent 4 .) "" -}}
{{- end -}}

{{- define "groundling.settingsFile" -}}
{{- include "groundling.toml" (dict "path" "" "table" (include "groundling.settings" . | fromYaml)) | trim -}}
{{- end -}}

{{/* Without the rules of ingest, whose changes concern neither workers nor the scaler. */}}
{{- define "groundling.workerSettingsFile" -}}
{{- include "groundling.toml" (dict "path" "" "table" (omit (include "groundling.settings" . | fromYaml) "ingest" "events")) | trim -}}
{{- end -}}
