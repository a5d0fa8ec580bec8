package modelvault.authz_test

_as_owner(changes) := object.union(_for({"subject": {"id": "corp:olga"}}), changes)

test_keys_need_a_purpose if {
	_reasons(_for({"context": {"purpose": null}})) == {"purpose_required"}
}

test_the_purpose_must_exist if {
	_reasons(_as_owner({"context": {"purpose": "resale"}})) == {"unknown_purpose"}
}

test_the_purpose_must_fit_the_action if {
	_reasons(_for({"context": {"purpose": "save"}})) == {"purpose_not_for_action"}
}

test_the_purpose_must_fit_the_classification if {
	"purpose_not_for_classification" in _reasons(_for({
		"action": {"name": "export"},
		"resource": {"classification": "closed"},
		"context": {"purpose": "save"},
	}))
}

test_some_purposes_are_for_owners if {
	"owner_only" in _reasons(_for({"context": {"purpose": "mend", "ticket": "T-1"}}))
}

test_some_need_a_ticket if {
	_reasons(_as_owner({"context": {"purpose": "mend"}})) == {"ticket_required"}
	_reasons(_as_owner({"context": {"purpose": "mend", "ticket": "T-1"}})) == {"grant:any"}
	not "ticket_required" in _reasons(_as_owner({
		"action": {"name": "renew"},
		"context": {"purpose": "mend"},
	}))
}

test_what_gives_no_keys_needs_no_purpose if {
	_reasons(_for({"action": {"name": "show"}, "context": {"purpose": null}})) == {"grant:user"}
}
