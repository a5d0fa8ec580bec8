"""`doctor`: whether everything is as it should be, and if not, what mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelvault.errors import InvalidRequest
from modelvault_cli.frame import Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault_cli.documents import Finding

_MARKS = {"ok": "✓", "warning": "!", "failed": "✗"}


@command("doctor", "modelvault doctor", "modelvault doctor --json")
@pass_globals
def doctor(options: Globals) -> int:
    """Check home, permissions, keys, clock, policy, disk, and what the machine does with memory.

    Says of each what was found and how to mend it. The exit code is 1 when something failed;
    warnings alone leave it 0.
    """
    from modelvault import wiring
    from modelvault_cli.documents import Checkup, Finding
    from modelvault_cli.output import emit

    if options.broker is not None:
        raise InvalidRequest("usage", "only a home can be checked", "leave --broker out")
    findings = tuple(
        Finding(check=one.check, status=one.status, found=one.text, mend=one.mend)
        for one in wiring.doctor(options.home)
    )
    healthy = all(one.status != "failed" for one in findings)
    lines = [line for one in findings for line in _lines(one)]
    emit(options, Checkup(healthy=healthy, findings=findings), lines)
    return 0 if healthy else 1


def _lines(one: Finding) -> list[str]:
    mend = [f"    mend: {one.mend}"] if one.mend else []
    return [f"{_MARKS[one.status]} {one.check}: {one.found}", *mend]
