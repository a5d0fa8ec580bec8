# What an OPA server that decides for modelvault lets be asked of it: one rule, and its health.
# Run with --authentication=token --authorization=basic, and give this file by its name: it must
# not lie in the bundle, which the vault's policy admins write.
package system.authz

import rego.v1

default allow := false

allow if {
	input.method == "POST"
	input.path == ["v1", "data", "modelvault", "authz", "decision"]
	_known(input.identity)
}

# Whether it runs, and whether the bundle is loaded, is no secret.
allow if {
	input.method == "GET"
	input.path == ["health"]
}

# The token itself stands in no environment: its SHA-256 does, which can't be used to ask.
_known(token) if {
	is_string(token)
	count(token) >= 16
	expected := opa.runtime().env.MODELVAULT_OPA_TOKEN_SHA256
	count(expected) == 64
	crypto.sha256(token) == expected
}
