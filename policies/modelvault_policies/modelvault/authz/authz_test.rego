package modelvault.authz_test

import data.modelvault.authz

test_an_allow_names_its_grants if {
	decision := _decide(_load)
	decision.decision == true
	decision.context.reasons == ["grant:user"]
}

test_a_deny_names_its_denies_and_no_obligation if {
	decision := _decide(_for({"subject": {"groups": []}}))
	decision == {"decision": false, "context": {"reasons": ["no_grant"], "obligations": []}}
}

test_malformed_input_is_a_deny if {
	malformed := {"decision": false, "context": {"reasons": ["malformed_input"], "obligations": []}}
	every input_ in [
		{},
		[],
		"text",
		null,
		_for({"subject": {"id": 1}}),
		_for({"subject": {"groups": {"a": "corp:users"}}}),
		_for({"subject": {"groups": [1]}}),
		_for({"subject": {"bound_by": "something"}}),
		_for({"action": {"name": null}}),
		_for({"resource": {"owner": 1}}),
		_for({"resource": {"hints": {"pickles": "a"}}}),
		_for({"context": {"ticket": false}}),
	] {
		_decide(input_) == malformed
	}
}

test_null_is_fine_where_it_may_be if {
	_decide(_for({
		"action": {"name": "show"},
		"resource": {"owner": null, "classification": null},
		"context": {"purpose": null},
	})).decision == true
}

_show := _for({"action": {"name": "show"}, "context": {"purpose": null}})

test_site_rules_add_grants_and_obligations if {
	granted := authz.decision with input as _show
		with data.modelvault.site as {
			"grants": {"site:a"},
			"obligations": {{"id": "x", "type": "y", "properties": {}}},
		}
	granted == {"decision": true, "context": {
		"reasons": ["site:a"],
		"obligations": [{"id": "x", "type": "y", "properties": {}}],
	}}
}

test_site_rules_add_denies if {
	denied := authz.decision with input as _show
		with data.modelvault.site as {"grants": {"site:a"}, "denies": {"site:b"}}
	denied.context.reasons == ["site:b"]
}
