{{- define "ctsight.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "ctsight.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "ctsight.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "ctsight.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ctsight.selector" -}}
app.kubernetes.io/name: {{ include "ctsight.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "ctsight.meta" -}}
name: {{ include "ctsight.fullname" . | quote }}
namespace: {{ .Release.Namespace | quote }}
labels:
  {{- include "ctsight.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "ctsight.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "ctsight.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* The file of ctsight serve, with the socket of the runtime in it. */ -}}
{{- define "ctsight.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $port := printf ":%d" (int .Values.port) }}
{{- $found := dict }}
{{- range dig "web" "listen" (list ":9781") $config }}
{{- if hasSuffix $port . }}{{ $_ := set $found "it" true }}{{ end }}
{{- end }}
{{- if not $found.it }}
{{- fail (printf "config.web.listen has no address with port %d: change it or port" (int .Values.port)) }}
{{- end }}
{{- if .Values.criSocket }}
{{- $_ := set $config "cri" (dict "socket" .Values.criSocket) }}
{{- end }}
{{- with .Values.flight.hostPath }}
{{- $_ := set $config "flight" (mergeOverwrite (dict) (default dict $config.flight) (dict "dir" .)) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{- /* AppArmor as it was said before Kubernetes 1.30. */ -}}
{{- define "ctsight.apparmor" -}}
{{- $type := .Values.appArmorProfile.type }}
{{- if eq $type "Unconfined" }}unconfined
{{- else if eq $type "RuntimeDefault" }}runtime/default
{{- else }}{{ printf "localhost/%s" .Values.appArmorProfile.localhostProfile }}
{{- end }}
{{- end }}

{{- define "ctsight.probe" -}}
{{- $root := index . 0 -}}
path: {{ index . 1 }}
port: metrics
{{- if ne $root.Values.scheme "HTTP" }}
scheme: {{ $root.Values.scheme }}
{{- end }}
{{- end }}

{{- define "ctsight.telemetryPath" -}}
{{- dig "web" "telemetry_path" "/metrics" .Values.config }}
{{- end }}
