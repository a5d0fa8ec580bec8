package modelvault.authz_test

test_by_group if _reasons(_load) == {"grant:user"}

_shows(subject) := _for({
	"subject": {"id": subject, "groups": []},
	"action": {"name": "show"},
	"context": {"purpose": null},
})

test_by_subject if {
	_reasons(_shows("ci:one:main")) == {"grant:reader"}
	_reasons(_shows("ci:one:dev")) == {"no_grant"}
}

test_by_ownership if {
	_reasons(_for({"subject": {"id": "corp:olga", "groups": []}})) == {"grant:any"}
	_reasons(_for({"subject": {"groups": ["corp:olga"]}})) == {"grant:any"}
}

_deletes(maker) := _for({"action": {"name": "delete"}, "resource": {"created_by": maker}})

test_only_versions_of_their_own if {
	_reasons(_deletes("corp:ann")) == {"grant:maker"}
	_reasons(_deletes("corp:olga")) == {"no_grant"}
	_reasons(_deletes(null)) == {"no_grant"}
}

test_only_in_the_tenant if _reasons(_for({"resource": {"tenant": "blue"}})) == {"no_grant"}

test_only_models_of_the_pattern if _reasons(_for({"resource": {"id": "one-team"}})) == {"no_grant"}

test_a_list_needs_no_model if {
	_reasons(_for({"action": {"name": "list"}, "resource": {"id": "*"}})) == {"grant:user"}
}

test_only_the_roles_actions if _reasons(_for({"action": {"name": "delete"}})) == {"no_grant"}

test_only_the_roles_classifications if {
	_reasons(_for({"action": {"name": "show"}, "resource": {"classification": "odd"}})) == {"classification_not_granted"}
}

test_only_the_roles_purposes if {
	_reasons(_for({"action": {"name": "show"}, "context": {"purpose": "mend"}})) == {"purpose_not_granted"}
}
