{{/* Secrets of a command with its own NATS user: those of the workers, replaced by `own`. It may authenticate in another
way than the workers, so one authentication in `own` replaces theirs. Takes `root` and `own`. */}}
{{- define "groundling.ownSecrets" -}}
{{- $secrets := deepCopy .root.Values.secrets -}}
{{- $own := default dict .own -}}
{{- $authentications := list "natsUser" "natsPassword" "natsToken" "natsNkey" "natsCredentials" -}}
{{- $replaces := false -}}
{{- range $authentications -}}
{{- if (default dict (get $own .)).name -}}
{{- $replaces = true -}}
{{- end -}}
{{- end -}}
{{- if $replaces -}}
{{- range $authentications -}}
{{- $_ := set (get $secrets .) "name" "" -}}
{{- end -}}
{{- end -}}
{{- toJson (mergeOverwrite $secrets (deepCopy $own)) -}}
{{- end -}}

{{/* The settings file of a command with its own NATS user. Takes `root`, `of` (the command's values, with `secrets` and
`inboxPrefix`) and `file`, the name of the template. */}}
{{- define "groundling.ownSettingsFile" -}}
{{- $values := deepCopy .root.Values -}}
{{- $_ := set $values "secrets" (include "groundling.ownSecrets" (dict "root" .root "own" .of.secrets) | fromJson) -}}
{{- with .of.inboxPrefix -}}
{{- $_ := set $values "settings" (mergeOverwrite $values.settings (dict "nats" (dict "inbox_prefix" .))) -}}
{{- end -}}
{{- include .file (dict "Values" $values "Chart" .root.Chart "Release" .root.Release) -}}
{{- end -}}

{{- define "groundling.setupSettingsFile" -}}
{{- include "groundling.ownSettingsFile" (dict "root" . "of" .Values.setup "file" "groundling.settingsFile") -}}
{{- end -}}

{{/* The pod of `groundling setup`. Takes `root`, `configMap` and `arguments`. */}}
{{- define "groundling.setupPod" -}}
{{- $own := include "groundling.ownSecrets" (dict "root" .root "own" .root.Values.setup.secrets) | fromJson -}}
{{- $secrets := dict "secrets" $own "of" "nats" -}}
{{- $configMap := .configMap -}}
{{- $arguments := .arguments -}}
{{- with .root -}}
restartPolicy: Never
{{- with .Values.setup.serviceAccountName }}
serviceAccountName: {{ . | quote }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.setup.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.setup.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: setup
    image: {{ include "groundling.cpuImage" . | quote }}
    imagePullPolicy: {{ .Values.cpuImage.pullPolicy }}
    args: {{ concat (list "setup") $arguments (list "--log-format" .Values.logFormat) | toJson }}
    env:
      {{- include "groundling.commonEnv" . | nindent 6 }}
      {{- with include "groundling.secretEnv" $secrets }}
      {{- . | trim | nindent 6 }}
      {{- end }}
    resources: {{- toYaml .Values.setup.resources | nindent 6 }}
    securityContext: {{- toYaml .Values.securityContext | nindent 6 }}
    volumeMounts:
      - name: settings
        mountPath: /etc/groundling
        readOnly: true
      {{- with include "groundling.secretMounts" $secrets }}
      {{- . | trim | nindent 6 }}
      {{- end }}
volumes:
  - name: settings
    configMap:
      name: {{ $configMap | quote }}
  {{- with include "groundling.secretVolumes" $secrets }}
  {{- . | trim | nindent 2 }}
  {{- end }}
{{- end -}}
{{- end -}}
