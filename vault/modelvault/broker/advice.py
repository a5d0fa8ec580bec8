"""What somebody whom the policy refused can do next, by its reasons.

Advice only: a reason of the policy may be anybody's word, and nothing is decided by it here.
"""

from __future__ import annotations

from modelvault.broker.asked import Authorised

# Reasons that the caller can lift. One that isn't listed takes an admin or an owner.
_LIFTED_BY = {
    "purpose_required": "name a purpose (--purpose)",
    "unknown_purpose": "name a purpose that the policy's data.json has (shipped: inference, "
    "evaluation, fine-tuning, export, copy, debug)",
    "purpose_mismatch": "name the purpose that the token was made for",
    "ticket_required": "give a ticket (--ticket)",
    "unknown_classification": "classify the model with a name that the policy's data.json has "
    "(shipped: public, internal, restricted)",
    "pickle_not_allowed": "leave the pickles out (--file), or push the weights as safetensors",
}


def advice(asked: Authorised) -> str:
    """What would lift all the reasons; else whom to ask, which is never the caller alone."""
    decision, resource = asked.decision, asked.request.resource
    lifts = [_LIFTED_BY.get(reason) for reason in decision.reasons]
    if lifts and all(lifts):
        what = "; ".join(filter(None, lifts))
    elif resource.owner is None or _own(asked):
        what = "ask an admin of this vault"
    else:
        what = f"ask {resource.owner}, the model's owner"
    if "no_grant" in decision.reasons and resource.created_by == asked.principal.id:
        what += ", for a grant with own_versions, which is for what you have made yourself"
    return f"{what}; decision {decision.decision_id}"


def _own(asked: Authorised) -> bool:
    # A new model's owner is who the caller says, and can't be asked for leave to make it.
    return asked.request.action == "create" or asked.request.resource.owner == asked.principal.id
