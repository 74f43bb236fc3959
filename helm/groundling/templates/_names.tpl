{{- define "groundling.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Longest suffix of an object: "-advisories". */}}
{{- define "groundling.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "groundling.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "groundling.selectorLabels" -}}
app.kubernetes.io/name: {{ include "groundling.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
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
