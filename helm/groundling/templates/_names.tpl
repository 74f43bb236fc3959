{{- define "groundling.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 50 characters: the longest suffix of an object is "-advisories". Longer names that begin alike differ in a
hash. */}}
{{- define "groundling.fullname" -}}
{{- $name := include "groundling.name" . -}}
{{- $full := printf "%s-%s" .Release.Name $name -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- $full = .Release.Name -}}
{{- end -}}
{{- if gt (len $full) 50 -}}
{{- $full = printf "%s-%s" ($full | trunc 41 | trimSuffix "-") ($full | sha256sum | trunc 8) -}}
{{- end -}}
{{- $full | trimSuffix "-" -}}
{{- end -}}

{{/* Quoted, as all names are: a name such as "123" would be a number. */}}
{{- define "groundling.selectorLabels" -}}
app.kubernetes.io/name: {{ include "groundling.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "groundling.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{ include "groundling.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "groundling.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "groundling.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* "true" if workers use a GPU. */}}
{{- define "groundling.usesGpu" -}}
{{- if or (gt (int .Values.gpu.count) 0) .Values.resourceClaims -}}true{{- end -}}
{{- end -}}

{{- define "groundling.imageOf" -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository .tag -}}
{{- end -}}
{{- end -}}

{{- define "groundling.cpuImage" -}}
{{- $image := .Values.cpuImage -}}
{{- include "groundling.imageOf" (dict
  "repository" (default .Values.image.repository $image.repository)
  "tag" (default .Chart.AppVersion $image.tag)
  "digest" $image.digest) -}}
{{- end -}}

{{- define "groundling.workerImage" -}}
{{- if include "groundling.usesGpu" . -}}
{{- $image := .Values.image -}}
{{- include "groundling.imageOf" (dict
  "repository" $image.repository
  "tag" (default (printf "%s-cuda" .Chart.AppVersion) $image.tag)
  "digest" $image.digest) -}}
{{- else -}}
{{- include "groundling.cpuImage" . -}}
{{- end -}}
{{- end -}}
