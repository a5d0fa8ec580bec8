# What the tests of this package share: a small data.json, and requests to change.
package modelvault.authz_test

import data.modelvault.authz

_roles := {
	"user": {
		"actions": ["load", "renew", "export", "push", "show", "list"],
		"classifications": ["open", "closed"],
		"purposes": ["run", "save"],
		"limits": {"max_concurrent_leases": 2},
	},
	"reader": {"actions": ["show", "list"], "classifications": ["*"], "purposes": []},
	"sender": {"actions": ["export"], "classifications": ["*"], "purposes": ["send"]},
	"maker": {"actions": ["delete"], "classifications": ["*"], "purposes": ["run"]},
	"any": {"actions": ["load", "show"], "classifications": ["*"], "purposes": ["*"]},
}

_grants := [
	{"role": "user", "groups": ["corp:users"], "tenants": ["red"], "models": ["team-*"]},
	{"role": "sender", "groups": ["corp:senders"], "tenants": ["red"], "models": ["team-*"]},
	{"role": "reader", "subjects": ["ci:*:main"], "tenants": ["*"], "models": ["*"]},
	{"role": "maker", "groups": ["corp:users"], "own_versions": true, "tenants": ["red"], "models": ["team-*"]},
	{"role": "any", "owner": true, "tenants": ["*"], "models": ["*"]},
]

_classifications := {
	"open": {"limits": {"max_ttl_s": 100}},
	"closed": {
		"key_bound_token": true,
		"token_bound_purpose": true,
		"limits": {"max_ttl_s": 50},
	},
}

_purposes := {
	"run": {"actions": ["load", "renew"], "classifications": ["*"], "limits": {"max_ttl_s": 10}},
	"save": {"actions": ["export"], "classifications": ["open"]},
	"send": {"actions": ["export"], "classifications": ["*"], "destinations": ["v1"]},
	"mend": {
		"actions": ["load"],
		"classifications": ["*"],
		"owner_only": true,
		"ticket_for": ["open"],
	},
}

_load := {
	"subject": {
		"type": "principal",
		"id": "corp:ann",
		"issuer": "corp",
		"groups": ["corp:users"],
		"claims": {},
		"bound_by": "bearer",
	},
	"action": {"name": "load"},
	"resource": {
		"type": "model",
		"tenant": "red",
		"id": "team-one",
		"version": 1,
		"manifest": null,
		"owner": "corp:olga",
		"classification": "open",
		"labels": {},
		"hints": {"formats": [], "pickles": []},
		"files": ["a.safetensors"],
		"bytes": 10,
	},
	"context": {
		"purpose": "run",
		"purpose_bound_by": "caller",
		"ticket": null,
		"now": 0,
		"source_ip": null,
		"client": "",
		"supported_obligations": [],
	},
}

_for(changes) := object.union(_load, changes)

_decide(request) := decision if {
	decision := authz.decision with input as request
		with data.modelvault.roles as _roles
		with data.modelvault.grants as _grants
		with data.modelvault.classifications as _classifications
		with data.modelvault.purposes as _purposes
		with data.modelvault.limits as {"max_bytes_per_day": 7}
		with data.modelvault.refuse_pickles as ["load"]
		with data.modelvault.site as {}
}

_reasons(request) := {reason | some reason in _decide(request).context.reasons}
