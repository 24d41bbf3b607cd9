{{- define "lightwell.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for what is put behind it, such as -metrics. */}}
{{- define "lightwell.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "lightwell.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "lightwell.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "lightwell.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "lightwell.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "lightwell.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{/* What selectors look for. They cannot be changed, so nothing is added here. Takes root and component. */}}
{{- define "lightwell.selector" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ include "lightwell.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* Takes root, component and, if there are some, further labels. */}}
{{- define "lightwell.labels" -}}
{{- $own := fromYaml (include "lightwell.selector" (list .root .component)) -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_")) -}}
{{- merge $own (.labels | default dict) .root.Values.labels | toYaml }}
{{- end }}

{{/* The metadata of an object. Takes root, component and, if they are there, what its name ends in, further labels and
annotations. */}}
{{- define "lightwell.metadata" -}}
name: {{ include "lightwell.fullname" .root }}{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "lightwell.labels" . | nindent 2 }}
{{- with merge dict (.annotations | default dict) .root.Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Restricted pod security, for every pod and every container of the chart. */}}
{{- define "lightwell.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.securityContext }}
{{- range $name := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- with get $.Values.securityContext $name }}
{{ $name }}: {{ int64 . }}
{{- end }}
{{- end }}
{{- if .fsGroup }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "lightwell.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What all pods of the chart have in common. */}}
{{- define "lightwell.pod" -}}
serviceAccountName: {{ include "lightwell.serviceAccount" . }}
automountServiceAccountToken: false
{{- /* A Service called lightwell-metrics would set LIGHTWELL_METRICS_PORT, which is a setting of the server. */}}
enableServiceLinks: false
securityContext:
  {{- include "lightwell.podSecurity" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "lightwell.tmp" -}}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.tmpSizeLimit }}
{{- end }}

{{/* A key of a Secret as a file. Takes volume, Secret, and files by key. */}}
{{- define "lightwell.secretVolume" -}}
- name: {{ index . 0 }}
  secret:
    secretName: {{ index . 1 }}
    defaultMode: 0440
    optional: false
    items:
      {{- range $key, $path := index . 2 }}
      - key: {{ $key }}
        path: {{ $path }}
      {{- end }}
{{- end }}

{{/* The port that probes ask: of gRPC, or under TLS the one of health alone. */}}
{{- define "lightwell.probePort" -}}
{{- if .Values.tls.enabled }}{{ int .Values.healthPort }}{{ else }}{{ int .Values.port }}{{ end }}
{{- end }}

{{/* Takes root, the values of the probe, the name that health is asked for. */}}
{{- define "lightwell.probe" -}}
{{- $values := index . 1 -}}
grpc:
  port: {{ include "lightwell.probePort" (index . 0) }}
  service: {{ index . 2 | quote }}
periodSeconds: {{ int $values.periodSeconds }}
timeoutSeconds: {{ int $values.timeoutSeconds }}
failureThreshold: {{ int $values.failureThreshold }}
{{- end }}

{{- define "lightwell.autoscaled" -}}
{{- if or .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled }}yes{{ end }}
{{- end }}

{{/* The name of the chosen source of models, and "none" or "several" where it is not one. */}}
{{- define "lightwell.repository" -}}
{{- $chosen := list -}}
{{- with .Values.repository -}}
{{- if .bundled }}{{ $chosen = append $chosen "bundled" }}{{ end -}}
{{- if .persistentVolumeClaim.claimName }}{{ $chosen = append $chosen "persistentVolumeClaim" }}{{ end -}}
{{- if .image.reference }}{{ $chosen = append $chosen "image" }}{{ end -}}
{{- if .copy.image }}{{ $chosen = append $chosen "copy" }}{{ end -}}
{{- if .hostPath.path }}{{ $chosen = append $chosen "hostPath" }}{{ end -}}
{{- end -}}
{{- if eq (len $chosen) 1 }}{{ first $chosen }}{{ else if $chosen }}several{{ else }}none{{ end }}
{{- end }}

{{/* A value in TOML. Whole numbers come from Helm as floats. */}}
{{- define "lightwell.toml" -}}
{{- if kindIs "float64" . }}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else }}
{{- toJson . }}
{{- end }}
{{- end }}

{{/* The settings of the server: those of `settings`, and those that follow from other values. */}}
{{- define "lightwell.settings" -}}
address = "0.0.0.0:{{ int .Values.port }}"
metrics_port = {{ int .Values.metrics.port }}
{{- if .Values.aliases }}
aliases = "/etc/lightwell/aliases/aliases.toml"
{{- end }}
{{- if .Values.gpu.count }}
{{- $devices := list }}
{{- range $index := until (int .Values.gpu.count) }}
{{- $devices = append $devices (printf "%s:%d" $.Values.gpu.device $index) }}
{{- end }}
devices = {{ join "," $devices | quote }}
{{- end }}
{{- if .Values.tls.enabled }}
health_address = "0.0.0.0:{{ int .Values.healthPort }}"
tls_certificate = "/etc/lightwell/tls/tls.crt"
tls_key = "/etc/lightwell/tls/tls.key"
{{- end }}
{{- if .Values.tls.clientCertificates.enabled }}
tls_client_ca = "/etc/lightwell/client-ca/ca.crt"
{{- end }}
{{- if .Values.tokens.enabled }}
tokens = "/etc/lightwell/tokens/tokens.toml"
{{- end }}
{{- range $name, $value := .Values.settings }}
{{ $name }} = {{ include "lightwell.toml" $value }}
{{- end }}
{{- end }}

{{/* How metrics are scraped. Takes root and the values of a monitor. */}}
{{- define "lightwell.scrape" -}}
{{- $values := last . -}}
interval: {{ $values.interval }}
scrapeTimeout: {{ $values.scrapeTimeout }}
relabelings:
  {{- /* By this name alerts know the server, whatever the release is called. */}}
  - targetLabel: job
    replacement: lightwell/{{ include "lightwell.fullname" (first .) }}
{{- with $values.relabelings }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
