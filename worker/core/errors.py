"""The error tree and `Cancelled`. Knows no vendor, no request field and no transport.

    JobError                     an outcome that the caller receives: code, plain words, whether to try again
    ├── CallerError              the request is to blame
    │   ├── InvalidInput, Unauthenticated, Forbidden
    │   ├── UrlBlocked, DownloadFailed, InvalidImage
    │   └── IdempotencyMismatch, DuplicateInProgress, Deleted
    ├── ModelError               the model or the GPU is to blame
    │   └── ModelUnavailable, OutOfMemory, GpuFault
    └── InfrastructureError      something around the model is to blame
        ├── StorageUnavailable, ResultTooLarge, DiskFull, JobTimeout
        └── Superseded, PoisonJob, Internal
    Cancelled                    the job was asked to stop; not an error, so no fallback can swallow it

The texts are in `messages`: an error holds the id of its text and the parameters that the text names.
"""

import copy
import copyreg
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from worker.core.messages import text


class _Outcome(Exception):
    """Ends a job without a result: a code, the id of a message, and whether to try again.

    `DownloadFailed("download_failed.status", field="image_url", status=503)`. Without an id, the message is the
    catalogue's for the error's code.
    """

    code: ClassVar[str]
    retryable: bool = False
    """Whether the same request may succeed later; an instance may override its class."""

    def __init__(self, message_id: str | None = None, /, *, retryable: bool | None = None, **params: object) -> None:
        self.message_id = message_id or self.code
        self.message = text(self.message_id, **params)
        self.params: Mapping[str, object] = params
        if retryable is not None:
            self.retryable = retryable
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copy without the constructor, which would take the finished text for an id.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # undeclared


class JobError(_Outcome):
    """The job failed."""

    code = "internal"

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class CallerError(JobError):
    """The request cannot be served as it is."""


class ModelError(JobError):
    """The model could not do it."""


class InfrastructureError(JobError):
    """Something around the model failed."""

    retryable = True


class FieldProblem:
    """What is wrong with one field. `field` is the name that the client used, `problem` says what would be valid."""

    def __init__(self, field: str, message_id: str, /, **params: object) -> None:
        self.field, self.message_id = field, message_id
        self.problem = text(message_id, **params)
        self.params: Mapping[str, object] = params

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem


class InvalidInput(CallerError):
    """The request is not valid, for one reason or several."""

    code = "invalid_input"

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        if self.problems:
            super().__init__("invalid_input.fields", problems="; ".join(map(str, self.problems)))
        else:
            super().__init__()


class Unauthenticated(CallerError):
    """The caller has not proved who they are."""

    code = "unauthenticated"


class Forbidden(CallerError):
    """The caller is known, and not allowed."""

    code = "forbidden"


class UrlBlocked(CallerError):
    """The URL leads to an internal address, or could."""

    code = "url_blocked"


class DownloadFailed(CallerError):
    """A server or the bucket did not deliver a picture or a LoRA."""

    code = "download_failed"
    retryable = True


class InvalidImage(CallerError):
    """The client's picture cannot be read or is too large."""

    code = "invalid_image"


class IdempotencyMismatch(CallerError):
    """The document belongs to another request."""

    code = "idempotency_mismatch"


class DuplicateInProgress(CallerError):
    """The document is held by another job of the same request."""

    code = "duplicate_in_progress"


class Deleted(CallerError):
    """The user deleted the document while the job ran."""

    code = "deleted"


class ModelUnavailable(ModelError):
    """The task's weights are not configured, missing or invalid."""

    code = "model_unavailable"


class OutOfMemory(ModelError):
    """The GPU or the machine has too little memory for the job."""

    code = "out_of_memory"


class GpuFault(ModelError):
    """The GPU or its driver failed; the process must be replaced."""

    code = "gpu_fault"
    retryable = True


class StorageUnavailable(InfrastructureError):
    """The bucket rejected the result, or does not answer."""

    code = "storage_unavailable"


class ResultTooLarge(InfrastructureError):
    """An inline result does not fit into a response."""

    code = "result_too_large"
    retryable = False


class DiskFull(InfrastructureError):
    """The disk has no room for a temporary file or a download."""

    code = "disk_full"


class JobTimeout(InfrastructureError):
    """The job exceeded its time limit."""

    code = "timeout"


class Superseded(InfrastructureError):
    """Another attempt owns the document or the objects now."""

    code = "superseded"
    retryable = False


class PoisonJob(InfrastructureError):
    """The job has cost too many workers."""

    code = "poison_job"
    retryable = False


class Internal(InfrastructureError):
    """Everything else: a bug, or a part that is missing."""

    code = "internal"


class Cancelled(_Outcome):
    """The job was asked to stop."""

    code = "cancelled"


ERROR_CODES: frozenset[str] = frozenset(
    {Cancelled.code} | {leaf.code for branch in JobError.__subclasses__() for leaf in branch.__subclasses__()}
)
"""Every code that a response can carry (docs/api.md)."""


def combined(errors: Sequence[CallerError]) -> CallerError:
    """Return a new error that says what each of these says about a source of the request; there is at least one.

    It has the code of the first that no other try can help, and may be tried again only if each of them may.
    """
    if len(errors) == 1:
        return copy.copy(errors[0])
    lasting = next((error for error in errors if not error.retryable), None)
    problems = "; ".join(error.message for error in errors)
    match lasting or errors[0]:
        case InvalidImage():
            return InvalidImage("invalid_image.fields", problems=problems)
        case DownloadFailed():
            return DownloadFailed("download_failed.fields", problems=problems, retryable=lasting is None)
        case UrlBlocked():
            return UrlBlocked("url_blocked.fields", problems=problems)
        case Forbidden():
            return Forbidden("forbidden.fields", problems=problems)
    return InvalidInput([problem for error in errors for problem in _problems(error)])


def _problems(error: CallerError) -> Sequence[FieldProblem]:
    return error.problems if isinstance(error, InvalidInput) else (FieldProblem("", error.message_id, **error.params),)


class BackendError(Exception):
    """A call to a service behind the worker failed. Raised by adapters, never shown to a client.

    `kind` says what to do next: `unreachable` is transient, `refused` is permanent, `invalid` is permanent for this
    content.
    """

    def __init__(self, service: str, kind: str) -> None:
        self.service, self.kind = service, kind
        super().__init__(f"{service} {kind}")
