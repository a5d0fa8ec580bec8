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

_to(vault, changes) := object.union(
	_for({"action": {"name": "export"}, "context": {"purpose": "send", "destination": vault}}),
	changes,
)

_sender := {"subject": {"groups": ["corp:senders"]}}

test_keys_for_another_vault_take_a_purpose_that_names_it if {
	_reasons(_to("v1", _sender)) == {"grant:sender"}
	_reasons(_to("v2", _sender)) == {"destination_not_for_purpose"}
	_reasons(_to(7, _sender)) == {"malformed_input"}
}

test_a_purpose_for_disks_is_none_for_vaults if {
	_reasons(_to("v1", {"context": {"purpose": "save"}})) == {"destination_not_for_purpose"}
	_reasons(_to(null, _sender)) == {"destination_required"}
}

test_keys_for_another_vault_need_no_token_bound_to_a_key if {
	closed := object.union(_sender, {
		"resource": {"classification": "closed"},
		"context": {"purpose_bound_by": "token"},
	})
	_reasons(_to("v1", closed)) == {"grant:sender"}
}

test_what_gives_no_keys_needs_no_purpose if {
	_reasons(_for({"action": {"name": "show"}, "context": {"purpose": null}})) == {"grant:user"}
}
