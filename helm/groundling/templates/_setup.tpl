{{/* Secrets of a command with its own NATS user: those of the workers, replaced by `own`. It may authenticate in another
way than the workers, so one authentication in `own` replaces theirs. Takes `root` and `own`. */}}
{{- define "groundling.ownSecrets" -}}
{{- $secrets := deepCopy .root.Values.secrets -}}
{{- $own := .own -}}
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

{{/* The settings file with the paths of these secrets. Takes `root` and `own`. */}}
{{- define "groundling.ownSettingsFile" -}}
{{- $values := set (deepCopy .root.Values) "secrets" (include "groundling.ownSecrets" . | fromJson) -}}
{{- include "groundling.settingsFile" (dict "Values" $values "Chart" .root.Chart "Release" .root.Release) -}}
{{- end -}}

{{- define "groundling.setupSecrets" -}}
{{- include "groundling.ownSecrets" (dict "root" . "own" .Values.setup.secrets) -}}
{{- end -}}

{{- define "groundling.setupSettingsFile" -}}
{{- include "groundling.ownSettingsFile" (dict "root" . "own" .Values.setup.secrets) -}}
{{- end -}}

{{/* The pod of `groundling setup`. Takes `root` and `configMap`. */}}
{{- define "groundling.setupPod" -}}
{{- $secrets := dict "secrets" (include "groundling.setupSecrets" .root | fromJson) "of" "nats" -}}
{{- $configMap := .configMap -}}
{{- with .root -}}
restartPolicy: Never
{{- with .Values.setup.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: setup
    image: {{ include "groundling.cpuImage" . }}
    imagePullPolicy: {{ .Values.cpuImage.pullPolicy }}
    args: [setup, --log-format, {{ .Values.logFormat }}]
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
      name: {{ $configMap }}
  {{- with include "groundling.secretVolumes" $secrets }}
  {{- . | trim | nindent 2 }}
  {{- end }}
{{- end -}}
{{- end -}}
