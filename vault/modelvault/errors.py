"""What can go wrong, in seven families.

Every error has a stable `code` for programs, a one-line message for people and a `hint` that says
what to do next. The families decide the HTTP status and the exit code; those two tables live in
the server and in the command, not here. No message, hint or detail ever holds key bytes, tokens
or the text of another library's exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import ClassVar, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class ModelVaultError(Exception):
    """Base of all errors that leave modelvault.

    `code` is stable and lowercase_with_underscores; `hint` is what the reader should do next;
    `details` holds plain values (str, int, bool, lists of these) for `--json` and for problem
    documents. Code and hint are notes too, which Python's tracebacks show.
    """

    family: ClassVar[str] = "error"

    def __init__(self, code: str, message: str, hint: str = "", **details: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.details: Mapping[str, object] = details
        # A traceback that nobody caught shows them below the message; `str` stays the message.
        self.add_note(f"code: {code}")
        if hint:
            self.add_note(f"hint: {hint}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.code, self.message, self.hint, dict(self.details))


Error = TypeVar("Error", bound=ModelVaultError)


def _rebuild(
    family: type[ModelVaultError], code: str, message: str, hint: str, details: dict[str, object]
) -> ModelVaultError:
    return family(code, message, hint, **details)


def unframed(error: Error) -> Error:
    """The same error without the frames that it came through and what it came from.

    For what is refused while a token or a passphrase is in somebody's hands: tools that show
    tracebacks with the values of their locals must find none.
    """
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def sealed(call: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function, with every error of ours coming out `unframed`.

    For the edge of an adapter: the foreign exception behind an error, and the frames it came
    through, can hold plaintexts, tokens and signed URLs.
    """

    @wraps(call)
    def sealing(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            return call(*args, **kwargs)
        except ModelVaultError as error:
            raise unframed(error) from None

    return sealing


class InvalidRequest(ModelVaultError):
    """The configuration, a reference or an input is wrong; asking again won't help."""

    family = "invalid_request"


class AuthenticationError(ModelVaultError):
    """The token doesn't prove who is asking."""

    family = "authentication"


class AccessDenied(ModelVaultError):
    """Policy, an obligation, a limit, an expiry or a revocation says no.

    `details` may hold `subject`, `action`, `model`, `purpose`, `reasons`, `decision_id`, `owner`.
    """

    family = "access_denied"


class NotFound(ModelVaultError):
    """It isn't there, or the caller may not know that it is."""

    family = "not_found"


class Conflict(ModelVaultError):
    """Somebody else was first, or it exists already."""

    family = "conflict"


class IntegrityError(ModelVaultError):
    """Bytes, signatures or serials aren't what they must be. Nothing of it was used."""

    family = "integrity"


class Unavailable(ModelVaultError):
    """A part that is needed gave no usable answer. Never a deny and never a grant."""

    family = "unavailable"
