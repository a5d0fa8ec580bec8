package modelvault.authz_test

import data.modelvault.authz

_closed(changes) := object.union(_for({"resource": {"classification": "closed"}}), changes)

_pickle := {"resource": {"files": ["a.bin"], "hints": {"pickles": ["a.bin"]}}}

test_every_limit_that_applies_is_an_obligation if {
	{obligation.id: obligation.properties.value | some obligation in _decide(_load).context.obligations} == {
		"all:max_bytes_per_day": 7,
		"classification:max_ttl_s": 100,
		"purpose:max_ttl_s": 10,
		"role:user:max_concurrent_leases": 2,
	}
}

test_no_obligation_without_keys if {
	_decide(_for({"action": {"name": "show"}})).context.obligations == []
}

test_the_classification_must_exist if {
	"unknown_classification" in _reasons(_for({"resource": {"classification": "odd"}}))
	"unknown_classification" in _reasons(_for({"resource": {"classification": null}}))
}

test_some_need_bound_tokens_and_purposes if {
	bound := {"subject": {"bound_by": "key"}}
	from_token := {"context": {"purpose_bound_by": "token"}}
	_reasons(_closed(bound)) == {"token_bound_purpose_required"}
	_reasons(_closed(from_token)) == {"key_bound_token_required"}
	_reasons(_closed(object.union(bound, from_token))) == {"grant:user"}
}

test_pickles_are_refused if _reasons(_for(_pickle)) == {"pickle_not_allowed"}

test_pickles_left_out_are_fine if {
	_reasons(_for({"resource": {"hints": {"pickles": ["a.bin"]}}})) == {"grant:user"}
}

test_pickles_need_one_limit_that_allows_and_none_that_forbids if {
	authz._pickle_allowed with authz._limits as {"a": {"allow_pickle": true}, "b": {}}
	not authz._pickle_allowed with authz._limits as {"a": {"allow_pickle": true}, "b": {"allow_pickle": false}}
	not authz._pickle_allowed with authz._limits as {"a": {}}
}
