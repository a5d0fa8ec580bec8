# What for: each purpose has its actions, its classifications and its conditions.
package modelvault.authz

denies contains "purpose_required" if {
	_gives_keys(input.action.name)
	input.context.purpose == null
}

denies contains "unknown_purpose" if {
	is_string(input.context.purpose)
	not data.modelvault.purposes[input.context.purpose]
}

denies contains "purpose_not_for_action" if {
	_gives_keys(input.action.name)
	purpose := _purpose
	not input.action.name in purpose.actions
}

denies contains "purpose_not_for_classification" if {
	_gives_keys(input.action.name)
	purpose := _purpose
	not _listed(input.resource.classification, purpose.classifications)
}

denies contains "owner_only" if {
	_gives_keys(input.action.name)
	_purpose.owner_only == true
	not _owns(input.subject, input.resource.owner)
}

# Shown when the lease is taken: a renewal names no ticket.
denies contains "ticket_required" if {
	input.action.name in {"load", "export"}
	_listed(input.resource.classification, _purpose.ticket_for)
	input.context.ticket == null
}

# Keys for another vault take a purpose that says for which: one for keys on a disk is none.
denies contains "destination_not_for_purpose" if {
	is_string(_destination)
	not _destination_covered
}

denies contains "destination_required" if {
	input.action.name == "export"
	_purpose.destinations
	_destination == null
}

_destination_covered if _listed(_destination, _purpose.destinations)

_purpose := data.modelvault.purposes[input.context.purpose]
