{{/* The volume with the models. */}}
{{- define "lightwell.modelsVolume" -}}
{{- $source := include "lightwell.repository" . -}}
- name: models
{{- if eq $source "persistentVolumeClaim" }}
  persistentVolumeClaim:
    claimName: {{ .Values.repository.persistentVolumeClaim.claimName }}
    readOnly: true
{{- else if eq $source "image" }}
  image:
    reference: {{ .Values.repository.image.reference }}
    pullPolicy: {{ .Values.repository.image.pullPolicy }}
{{- else if eq $source "hostPath" }}
  hostPath:
    path: {{ .Values.repository.hostPath.path }}
    type: Directory
{{- else }}
  emptyDir:
    sizeLimit: {{ .Values.repository.copy.sizeLimit }}
{{- end }}
{{- end }}

{{/* The containers that copy the models before the server starts, and check them. */}}
{{- define "lightwell.copy" -}}
- name: copy-models
  {{- with .Values.repository.copy }}
  image: {{ .image }}
  imagePullPolicy: {{ .pullPolicy }}
  command:
    {{- .command | default (list "cp" "-Rf" (printf "%s/." .path) "/target/") | toYaml | nindent 4 }}
  {{- with .env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- include "lightwell.initContainer" "/target" | nindent 2 }}
- name: check-digests
  image: {{ include "lightwell.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command:
    - python3
    - -c
    - |
      {{- .Files.Get "files/check_digests.py" | nindent 6 }}
    - /models
    - {{ toJson .Values.repository.copy.sha256 | quote }}
  {{- include "lightwell.initContainer" "/models" | nindent 2 }}
{{- end }}

{{/* Takes where the copy is mounted: at /target to be written, because images may have their models at /models. */}}
{{- define "lightwell.initContainer" -}}
resources:
  requests:
    cpu: 100m
    memory: 64Mi
  limits:
    memory: 512Mi
securityContext:
  {{- include "lightwell.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: models
    mountPath: {{ . }}
    readOnly: {{ ne . "/target" }}
  - name: tmp
    mountPath: /tmp
{{- end }}
