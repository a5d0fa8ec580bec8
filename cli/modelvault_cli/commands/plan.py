"""Dry runs: what a command would do, and whether the policy would let it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelvault.errors import AccessDenied
from modelvault_cli.frame import Globals

if TYPE_CHECKING:
    from modelvault.access import Action
    from modelvault.client.session import Session


# Of every copy: what the brokers decide while it runs.
UNCHECKED = ("limits on leases and bytes, tickets, and whether keys and stores can be reached",)


def allowed(
    session: Session,
    action: Action,
    target: str,
    purpose: str | None = None,
    destination: str | None = None,
) -> tuple[str, ...]:
    """Why the policy would allow it. Raises AccessDenied (`would_be_denied`) where it says no."""
    answer = session.explain(action, target, purpose=purpose, destination=destination)
    if not answer.allowed:
        raise AccessDenied(
            "would_be_denied",
            f"the policy doesn't let you {action} {target}: {', '.join(answer.reasons)}",
            "ask the model's owner or an admin",
            action=action,
            model=target,
            reasons=list(answer.reasons),
            decision_id=answer.decision_id,
        )
    return answer.reasons


def plan(
    options: Globals,
    session: Session,
    action: Action,
    target: str,
    effect: str,
    purpose: str | None = None,
) -> None:
    """Print what would be done to a model; raises as `allowed`."""
    tell(options, action, target, effect, allowed(session, action, target, purpose))


def tell(
    options: Globals,
    action: Action | str,
    target: str,
    effect: str,
    reasons: tuple[str, ...] = (),
    *,
    notes: tuple[str, ...] = (),
    unchecked: tuple[str, ...] = (),
) -> None:
    """Print what would be done. The policy can be asked only about models that there are."""
    from modelvault_cli.documents import Plan
    from modelvault_cli.output import emit

    document = Plan(
        action=action,
        target=target,
        effect=effect,
        reasons=reasons,
        notes=notes,
        unchecked=unchecked,
    )
    why = f" (allowed: {', '.join(reasons)})" if reasons else ""
    lines = [f"would {effect}{why}", *(f"  {note}" for note in notes)]
    emit(options, document, [*lines, *(f"not checked: {each}" for each in unchecked)])
