{{- define "modelvault.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "modelvault.labels" -}}
app.kubernetes.io/name: modelvault
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "modelvault.selector" -}}
app.kubernetes.io/name: modelvault
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: broker
{{- end }}

{{- define "modelvault.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{/* Where clients in the cluster find the brokers. */}}
{{- define "modelvault.url" -}}
{{- $port := int .Values.service.port -}}
https://{{ include "modelvault.name" . }}.{{ .Release.Namespace }}.svc{{ if ne $port 443 }}:{{ $port }}{{ end }}
{{- end }}

{{/* What every pod is: nobody, and allowed nothing. */}}
{{- define "modelvault.podSecurity" -}}
runAsNonRoot: true
{{ toYaml .Values.securityContext }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "modelvault.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What a broker, and whatever works on its ledger, finds below /etc and /var/run/secrets. */}}
{{- define "modelvault.mounts" -}}
- {name: config, mountPath: /etc/modelvault/config, readOnly: true}
- {name: trust, mountPath: /etc/modelvault/trust, readOnly: true}
- {name: ca, mountPath: /etc/modelvault/ca, readOnly: true}
- {name: secrets, mountPath: /var/run/secrets/modelvault, readOnly: true}
- {name: hcvault-token, mountPath: /var/run/secrets/hcvault, readOnly: true}
{{- if .Values.hcvault.caConfigMap }}
- {name: hcvault-ca, mountPath: /etc/modelvault/hcvault-ca, readOnly: true}
{{- end }}
{{- if .Values.ledger.caConfigMap }}
- {name: ledger-ca, mountPath: /etc/modelvault/ledger-ca, readOnly: true}
{{- end }}
{{- if .Values.objects.caConfigMap }}
- {name: objects-ca, mountPath: /etc/modelvault/objects-ca, readOnly: true}
{{- end }}
{{- if .Values.copies.trustedConfigMap }}
- {name: copies, mountPath: /etc/modelvault/copies, readOnly: true}
{{- end }}
{{- if .Values.kubernetesIssuer.enabled }}
- {name: kubernetes, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
{{- end }}

{{- define "modelvault.volumes" -}}
- name: config
  configMap: {name: {{ include "modelvault.name" . }}-config}
- name: trust
  configMap: {name: {{ .Values.vault.trustConfigMap }}}
- name: ca
  configMap: {name: {{ .Values.tls.caConfigMap }}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ .Values.tls.secret }}
          items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
      - secret:
          name: {{ .Values.ledger.passwordSecret }}
          items: [{key: password, path: ledger}]
      - secret:
          name: {{ .Values.opa.secret }}
          items: [{key: token, path: opa}, {key: bundle-token, path: opa-bundle}]
      {{- with .Values.objects.credentialsSecret }}
      - secret:
          name: {{ . }}
          items: [{key: credentials, path: objects}]
      {{- end }}
- name: hcvault-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          audience: {{ .Values.hcvault.auth.audience | quote }}
          expirationSeconds: 3600
          path: token
{{- with .Values.hcvault.caConfigMap }}
- name: hcvault-ca
  configMap: {name: {{ . }}}
{{- end }}
{{- with .Values.ledger.caConfigMap }}
- name: ledger-ca
  configMap: {name: {{ . }}}
{{- end }}
{{- with .Values.objects.caConfigMap }}
- name: objects-ca
  configMap: {name: {{ . }}}
{{- end }}
{{- with .Values.copies.trustedConfigMap }}
- name: copies
  configMap: {name: {{ . }}}
{{- end }}
{{- if .Values.kubernetesIssuer.enabled }}
- name: kubernetes  # the API server shows its public keys to whoever has a token of the cluster
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {expirationSeconds: 3600, path: token}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}

{{/* A value in TOML. Helm's toToml writes whole numbers as fractions, which the broker refuses. */}}
{{- define "modelvault.toml" -}}
{{- if kindIs "map" . -}}
{ {{- range $number, $name := keys . | sortAlpha -}}
{{- if $number }}, {{ end }}{{ toJson $name }} = {{ include "modelvault.toml" (get $ $name) }}
{{- end -}} }
{{- else if kindIs "slice" . -}}
[{{ range $number, $one := . }}{{ if $number }}, {{ end }}{{ include "modelvault.toml" $one }}{{ end }}]
{{- else if kindIs "float64" . -}}
{{ if eq (float64 (int64 .)) . }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end }}
