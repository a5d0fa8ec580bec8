# Who may do what: roles by group, subject or ownership, for models by pattern.
package modelvault.authz

grants contains sprintf("grant:%s", [role]) if some role in _roles_for_purpose

denies contains "no_grant" if {
	count(_roles_for_action) == 0
	count(grants) == 0
}

denies contains "classification_not_granted" if {
	count(_roles_for_action) > 0
	count(_roles_for_classification) == 0
	count(grants) == 0
}

denies contains "purpose_not_granted" if {
	count(_roles_for_classification) > 0
	count(grants) == 0
}

# The roles held, in three steps, so that a refusal can say which one failed.
_roles_for_action contains grant.role if {
	some grant in data.modelvault.grants
	_held(grant, input.subject, input.resource.owner)
	_version_covered(grant, input.subject)
	_matches(input.resource.tenant, grant.tenants)
	_model_covered(grant.models, input.resource.id, input.action.name)
	input.action.name in data.modelvault.roles[grant.role].actions
}

_roles_for_classification contains role if {
	some role in _roles_for_action
	_classification_covered(data.modelvault.roles[role].classifications, input.resource.classification)
}

_roles_for_purpose contains role if {
	some role in _roles_for_classification
	_purpose_covered(data.modelvault.roles[role].purposes, input.context.purpose)
}

_held(grant, subject, _) if {
	some group in grant.groups
	group in subject.groups
}

_held(grant, subject, _) if _matches(subject.id, grant.subjects)

_held(grant, subject, owner) if {
	grant.owner == true
	_owns(subject, owner)
}

# An owner is a subject's id or a group.
_owns(subject, owner) if subject.id == owner

_owns(subject, owner) if owner in subject.groups

# A grant may be for those versions alone that whoever asks has made.
_version_covered(grant, _) if not grant.own_versions

_version_covered(_, subject) if _created_by == subject.id

# A list is cut down to what may be shown, model by model.
_model_covered(_, _, action) if action == "list"

_model_covered(patterns, model, _) if _matches(model, patterns)

# What isn't about one model has no classification; what gives keys must (limits.rego).
_classification_covered(_, classification) if classification == null

_classification_covered(list, classification) if _listed(classification, list)

_purpose_covered(_, purpose) if purpose == null

_purpose_covered(list, purpose) if _listed(purpose, list)
