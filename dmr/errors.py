"""The exception tree. Nothing here knows HTTP; each dialect maps these types to its own error shape.

Whatever a client, a file or the network can cause is raised as a `DmrError`, and always reaches the client.
"""

from __future__ import annotations

from collections.abc import Mapping


class DmrError(Exception):
    """Base of every error that dmr reports to a user.

    Attributes:
        message: one sentence a user can act on.
        code: a short machine-readable name, stable across releases.
        param: the request field at fault, if there is one.
        retry_after: seconds after which the same request may succeed; None if a retry cannot help.
    """

    code = "internal_error"
    detail_names: tuple[str, ...] = ()  # attributes that are numbers, and cross process borders as such

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def details(self) -> dict[str, int]:
        """The numbers behind the message, as far as they are known."""
        values = ((name, getattr(self, name, None)) for name in self.detail_names)
        return {name: value for name, value in values if value is not None}


class InvalidRequest(DmrError):
    """The request is wrong and will stay wrong."""

    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"
    detail_names = ("num_prompt_tokens", "context_size")

    def __init__(self, num_prompt_tokens: int, context_size: int) -> None:
        super().__init__(
            f"The prompt has {num_prompt_tokens} tokens, but the context holds {context_size} tokens "
            "and at least one must be left for the answer.",
            param="messages",
        )
        self.num_prompt_tokens = num_prompt_tokens
        self.context_size = context_size


class PayloadTooLarge(InvalidRequest):
    """The request body is over the configured limit."""

    code = "request_too_large"


class InvalidReference(InvalidRequest):
    """A model name that cannot be parsed."""

    code = "invalid_reference"


class InvalidModelFile(InvalidRequest):
    """A file that is not a model, or a damaged one."""

    code = "invalid_model_file"


class Unsupported(InvalidRequest):
    """A valid wish that this model or this build cannot fulfil."""

    code = "unsupported"


class ModelNotFound(DmrError):
    """No model of that name is in the store."""

    code = "model_not_found"

    def __init__(self, reference: str, alias: str = "") -> None:
        """`alias`: the name that was asked for, if the settings say that it means this one."""
        meant = f", which '{alias}' stands for," if alias else ""
        super().__init__(
            f"The model '{reference}'{meant} does not exist. Pull it, or import a file with 'dmr import'.",
            param="model",
        )
        self.reference = reference


class Conflict(DmrError):
    """The thing is in a state that forbids this (in use, several tags, ...)."""

    code = "conflict"


class StoreError(DmrError):
    """The store cannot be read or written (disk full, damaged index, newer version)."""

    code = "store_error"


class Unauthorized(DmrError):
    """A registry does not let us in."""

    code = "unauthorized"


class RemoteModelNotFound(DmrError):
    """A registry has no such model."""

    code = "remote_model_not_found"


class RegistryError(DmrError):
    """A registry cannot be reached, or does not keep to its protocol."""

    code = "registry_error"


class RegistryNotAllowed(DmrError):
    """A registry at a private address, where requests may not have this server ask."""

    code = "registry_not_allowed"


class ModelLoadFailed(DmrError):
    """The engine could not load the model.

    Where there was not enough memory for its context, the numbers say so: what it needed, what was free, and the most
    tokens that would have fitted (0 = none).
    """

    code = "model_load_failed"
    detail_names = ("needed_bytes", "free_bytes", "fitting_context")
    needed_bytes: int | None = None
    free_bytes: int | None = None
    fitting_context: int | None = None

    @classmethod
    def for_want_of_memory(cls, message: str, needed: int, free: int, fitting_context: int) -> ModelLoadFailed:
        error = cls(message)
        error.needed_bytes, error.free_bytes, error.fitting_context = needed, free, fitting_context
        return error


class Unavailable(DmrError):
    """Not now: the same request may succeed a little later."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)


class Overloaded(Unavailable):
    """A bounded queue is full. `interval_ms`: if an engine's is, between two places that become free; else 0."""

    code = "overloaded"
    detail_names = ("interval_ms",)
    interval_ms = 0


class TooManyRequests(DmrError):
    """One client has as much in the queue as one may have. Others are served. `interval_ms`: as of `Overloaded`."""

    code = "too_many_requests"
    detail_names = ("interval_ms",)
    interval_ms = 0

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)


class DeadlineExceeded(DmrError):
    """The answer was not finished in the time that a request may take. To repeat it would take as long again."""

    code = "deadline_exceeded"


class UpstreamFailed(DmrError):
    """An engine beyond this machine cannot be reached, or does not keep to its protocol."""

    code = "upstream_failed"


class EngineCrashed(Unavailable):
    """The engine process died while it served this request."""

    code = "engine_crashed"


class ShuttingDown(Unavailable):
    """The server is stopping."""

    code = "shutting_down"


class InternalError(DmrError):
    """A defect of ours."""

    code = "internal_error"


def _tree(root: type[DmrError]) -> dict[str, type[DmrError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def error_from_code(
    code: str, message: str, param: str | None, retry_after: float | None, details: Mapping[str, int] | None = None
) -> DmrError:
    """Rebuild an error that crossed a process border; `details` are its numbers, by name."""
    kind = _tree(DmrError).get(code, InternalError)
    error = kind.__new__(kind)
    DmrError.__init__(error, message, param=param, retry_after=retry_after)
    for name in kind.detail_names:
        if details and name in details:
            setattr(error, name, details[name])
    return error
