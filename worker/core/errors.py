"""The error tree and `Cancelled`. Knows nothing else: no vendor, no field of the request, no transport.

    JobError                     an outcome the caller is told: code, plain words, whether to try again
    ├── CallerError              the request is to blame
    │   ├── InvalidInput, Unauthenticated, Forbidden
    │   ├── UrlBlocked, DownloadFailed, InvalidImage
    │   └── IdempotencyMismatch, DuplicateInProgress, Deleted
    ├── ModelError               the model or the card is to blame
    │   └── ModelUnavailable, OutOfMemory, GpuFault
    └── InfrastructureError      everything around them
        ├── StorageUnavailable, ResultTooLarge, DiskFull, JobTimeout
        └── Superseded, PoisonJob, Internal
    Cancelled                    somebody asked for the job to stop; not an error, so no fallback can swallow it

The first paragraph of a class's docstring is its default message. Messages are read by app developers and shown to
users: no traceback, path, host, key, token or prompt goes into one.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class JobError(Exception):
    """The job failed."""

    code: ClassVar[str] = "internal"
    retryable: bool = False
    """Whether the same request may succeed later; an error may know better than its class."""

    def __init__(self, message: str | None = None, *, retryable: bool | None = None) -> None:
        self.message = message or (inspect.getdoc(type(self)) or "").split("\n\n")[0]
        if retryable is not None:
            self.retryable = retryable
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class CallerError(JobError):
    """The request cannot be served as it is."""


class ModelError(JobError):
    """The model could not do it."""


class InfrastructureError(JobError):
    """Something around the model failed."""

    retryable = True


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field. `field` is the name the client used, `problem` says what would be right."""

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem


class InvalidInput(CallerError):
    """The request has fields that are not valid."""

    code = "invalid_input"

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems) or None)


class Unauthenticated(CallerError):
    """This job needs a valid id_token of the signed-in user."""

    code = "unauthenticated"


class Forbidden(CallerError):
    """The caller may not act for this user."""

    code = "forbidden"


class UrlBlocked(CallerError):
    """The URL points where this worker does not go; use a public https:// URL."""

    code = "url_blocked"


class DownloadFailed(CallerError):
    """The source image could not be downloaded."""

    code = "download_failed"
    retryable = True


class InvalidImage(CallerError):
    """The source image could not be read; send a PNG, JPEG or WebP."""

    code = "invalid_image"


class IdempotencyMismatch(CallerError):
    """This file_uid already belongs to another request; use a new file_uid."""

    code = "idempotency_mismatch"


class DuplicateInProgress(CallerError):
    """Another job is already working on this file_uid."""

    code = "duplicate_in_progress"


class Deleted(CallerError):
    """The document was deleted while the job ran; nothing was kept."""

    code = "deleted"


class ModelUnavailable(ModelError):
    """No model is configured for this task."""

    code = "model_unavailable"


class OutOfMemory(ModelError):
    """The card ran out of memory; ask for a smaller size, fewer frames or fewer images."""

    code = "out_of_memory"


class GpuFault(ModelError):
    """The card or its driver failed; the worker is being replaced."""

    code = "gpu_fault"
    retryable = True


class StorageUnavailable(InfrastructureError):
    """The result could not be stored."""

    code = "storage_unavailable"


class ResultTooLarge(InfrastructureError):
    """The result does not fit into a response; ask for cloud storage or a smaller result."""

    code = "result_too_large"
    retryable = False


class DiskFull(InfrastructureError):
    """The worker's disk is full."""

    code = "disk_full"


class JobTimeout(InfrastructureError):
    """The job took longer than this worker allows."""

    code = "timeout"


class Superseded(InfrastructureError):
    """A newer attempt of this job has taken over."""

    code = "superseded"
    retryable = False


class PoisonJob(InfrastructureError):
    """This job has ended several workers before it could finish and is not tried again."""

    code = "poison_job"
    retryable = False


class Internal(InfrastructureError):
    """The worker met an error it did not expect."""

    code = "internal"


class Cancelled(Exception):
    """The job was cancelled."""

    code: ClassVar[str] = "cancelled"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "the job was cancelled") -> None:
        self.message = message
        super().__init__(self.message)


ERROR_CODES: frozenset[str] = frozenset(
    {Cancelled.code} | {leaf.code for branch in JobError.__subclasses__() for leaf in branch.__subclasses__()}
)
"""Every code a client can meet (section 2 of the contract)."""


class BackendError(Exception):
    """A service behind the worker did not do what was asked. Raised by adapters, never shown to a client.

    `kind` says what to do next: `unreachable` may pass, `refused` will not pass by trying again.
    """

    def __init__(self, service: str, kind: str) -> None:
        self.service, self.kind = service, kind
        super().__init__(f"{service} {kind}")
