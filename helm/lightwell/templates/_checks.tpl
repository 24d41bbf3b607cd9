{{/* What a schema cannot say: values that do not go together, each with a sentence that says what to change. */}}
{{- define "lightwell.check" -}}
{{- include "lightwell.checkRepository" . -}}
{{- include "lightwell.checkSecrets" . -}}
{{- include "lightwell.checkScaling" . -}}
{{- include "lightwell.checkNetwork" . -}}
{{- range .Values.extraEnv -}}
{{- if hasPrefix "LIGHTWELL_" (.name | default "") -}}
{{- fail (printf "extraEnv has %s, which would go before the chart's own settings: put %s under settings, or change the value that it follows from" .name (trimPrefix "LIGHTWELL_" .name | lower)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "lightwell.checkRepository" -}}
{{- $chosen := include "lightwell.repository" . -}}
{{- $sources := "repository.persistentVolumeClaim.claimName, repository.image.reference, repository.copy.image, repository.hostPath.path or, for a first try, repository.bundled=true" -}}
{{- if eq $chosen "none" -}}
{{- fail (printf "the repository is empty: set where the models come from, %s" $sources) -}}
{{- end -}}
{{- if eq $chosen "several" -}}
{{- fail (printf "the repository has several sources: set only one of %s" $sources) -}}
{{- end -}}
{{- if and (eq $chosen "image") (semverCompare "<1.31.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "repository.image needs Kubernetes 1.31 or later, and this is %s: use repository.copy" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (eq $chosen "copy") (not .Values.repository.copy.sha256) -}}
{{- fail "repository.copy.sha256 is empty: list each file with its digest, as `sha256sum */*/*` in the repository prints them" -}}
{{- end -}}
{{- end }}

{{- define "lightwell.checkSecrets" -}}
{{- if and .Values.tls.enabled (not .Values.tls.secretName) -}}
{{- fail "tls.enabled is true and tls.secretName is empty: name a Secret with tls.crt and tls.key, such as `kubectl create secret tls` makes" -}}
{{- end -}}
{{- if .Values.tls.clientCertificates.enabled -}}
{{- if not .Values.tls.enabled -}}
{{- fail "tls.clientCertificates.enabled is true and tls.enabled is not: set tls.enabled=true and tls.secretName" -}}
{{- end -}}
{{- if not .Values.tls.clientCertificates.secretName -}}
{{- fail "tls.clientCertificates.enabled is true and tls.clientCertificates.secretName is empty: name a Secret with the authorities in ca.crt" -}}
{{- end -}}
{{- if and .Values.tests.enabled (not .Values.tests.clientCertificate.secretName) -}}
{{- fail "tls.clientCertificates.enabled is true and tests.clientCertificate.secretName is empty: name a Secret with tls.crt and tls.key of a caller, or set tests.enabled=false" -}}
{{- end -}}
{{- end -}}
{{- if .Values.tokens.enabled -}}
{{- if not .Values.tokens.secretName -}}
{{- fail "tokens.enabled is true and tokens.secretName is empty: name a Secret with the file of tokens in tokens.toml" -}}
{{- end -}}
{{- if and .Values.tests.enabled (not .Values.tests.token.secretName) -}}
{{- fail "tokens.enabled is true and tests.token.secretName is empty: name a Secret with a caller's token in token, or set tests.enabled=false" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "lightwell.checkScaling" -}}
{{- with .Values.autoscaling -}}
{{- if and .hpa.enabled .keda.enabled -}}
{{- fail "autoscaling.hpa and autoscaling.keda are both enabled, and each would undo what the other does: enable only one" -}}
{{- end -}}
{{- if and .keda.enabled (not .keda.prometheusAddress) -}}
{{- fail "autoscaling.keda.enabled is true and autoscaling.keda.prometheusAddress is empty: set where Prometheus answers, such as http://prometheus-operated.monitoring.svc:9090" -}}
{{- end -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas is %d and autoscaling.maxReplicas is %d: the first has to be the smaller one" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "lightwell.checkNetwork" -}}
{{- $ports := list (int .Values.port) (int .Values.healthPort) (int .Values.metrics.port) -}}
{{- if ne (len (uniq $ports)) 3 -}}
{{- fail (printf "port, healthPort and metrics.port are %d, %d and %d: each has to be another one" (index $ports 0) (index $ports 1) (index $ports 2)) -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor are both enabled, and everything would be counted twice: enable only one" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.settings.otlp_endpoint (not .Values.networkPolicy.egress) -}}
{{- fail "settings.otlp_endpoint is set and networkPolicy lets nothing out: list the collector, and DNS, under networkPolicy.egress" -}}
{{- end -}}
{{- end }}
