# METADATA
# title: The decision
# description: |
#   The one entrypoint. An allow needs a grant and an empty set of denies. Every part has a value
#   for every input: one undefined member would make the whole answer undefined.
# scope: package
# schemas:
#   - input: schema.input
package modelvault.authz

import data.modelvault.site

# METADATA
# title: Whether access is allowed, why, and under which obligations
# description: Without a well-formed input no other rule is looked at.
# entrypoint: true
default decision := {
	"decision": false,
	"context": {"reasons": ["malformed_input"], "obligations": []},
}

decision := {
	"decision": true,
	"context": {"reasons": sort(grants), "obligations": sort(obligations)},
} if {
	_well_formed
	count(denies) == 0
}

decision := {
	"decision": false,
	"context": {"reasons": sort(denies), "obligations": []},
} if {
	_well_formed
	count(denies) > 0
}

# An admin's own rules lie in package modelvault.site and may add to these three sets.
grants contains code if some code in site.grants

denies contains code if some code in site.denies

obligations contains obligation if some obligation in site.obligations

# What hands out keys.
_gives_keys(action) if action in {"load", "renew", "export"}

# Lists in data.json: "*" means any.
_listed(_, list) if "*" in list

_listed(name, list) if name in list

_matches(text, patterns) if {
	some pattern in patterns
	glob.match(pattern, null, text)
}

_well_formed if {
	is_string(input.subject.id)
	_texts(input.subject.groups)
	input.subject.bound_by in {"bearer", "key"}
	is_string(input.action.name)
	is_string(input.resource.tenant)
	is_string(input.resource.id)
	_text_or_null(input.resource.owner)
	_text_or_null(input.resource.classification)
	_texts(input.resource.hints.pickles)
	_texts(input.resource.files)
	_text_or_null(input.context.purpose)
	input.context.purpose_bound_by in {"caller", "token"}
	_text_or_null(input.context.ticket)
	_text_or_null(_destination)
	_text_or_null(_created_by)
}

# The other vault that keys would be handed over to.
_destination := object.get(input.context, "destination", null)

# Who made the version; nobody where a request isn't about one.
_created_by := object.get(input.resource, "created_by", null)

_text_or_null(value) if is_string(value)

_text_or_null(value) if value == null

_texts(value) if {
	is_array(value)
	every item in value {
		is_string(item)
	}
}
