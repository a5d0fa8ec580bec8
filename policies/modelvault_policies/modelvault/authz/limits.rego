# How: what a classification demands, and the limits that come with every key.
package modelvault.authz

denies contains "unknown_classification" if {
	_gives_keys(input.action.name)
	not data.modelvault.classifications[input.resource.classification]
}

denies contains "key_bound_token_required" if {
	_gives_keys(input.action.name)
	_classification.key_bound_token == true
	_destination == null # else the keys are sealed to that vault's key, whoever shows the token
	input.subject.bound_by != "key"
}

denies contains "token_bound_purpose_required" if {
	_gives_keys(input.action.name)
	_classification.token_bound_purpose == true
	input.context.purpose_bound_by != "token"
}

denies contains "pickle_not_allowed" if {
	input.action.name in data.modelvault.refuse_pickles
	some path in input.resource.hints.pickles
	path in input.resource.files
	not _pickle_allowed
}

# A limit that forbids counts more than one that allows.
_pickle_allowed if {
	values := {limits.allow_pickle | some limits in _limits}
	values == {true}
}

obligations contains {
	"id": sprintf("%s:%s", [source, type]),
	"type": type,
	"properties": {"value": value},
} if {
	_gives_keys(input.action.name)
	some source, limits in _limits
	some type, value in limits
}

_classification := data.modelvault.classifications[input.resource.classification]

_limits["all"] := data.modelvault.limits

_limits["classification"] := _classification.limits

_limits["purpose"] := _purpose.limits

_limits[sprintf("role:%s", [role])] := limits if {
	some role in _roles_for_purpose
	limits := data.modelvault.roles[role].limits
}
