"""The error tree: the contract's codes, plain messages, and whether the same request may succeed later."""

import copy
import pickle
import re
from collections.abc import Callable

import pytest

from worker.core.errors import (
    ERROR_CODES,
    BackendError,
    CallerError,
    Cancelled,
    DownloadFailed,
    FieldProblem,
    GpuFault,
    InfrastructureError,
    InvalidInput,
    JobError,
    ModelError,
    OutOfMemory,
    StorageUnavailable,
)

LEAVES: list[type[JobError]] = [leaf for branch in JobError.__subclasses__() for leaf in branch.__subclasses__()]
PLAIN = [leaf for leaf in LEAVES if leaf is not InvalidInput]
RETRYABLE = {
    "download_failed",
    "gpu_fault",
    "storage_unavailable",
    "disk_full",
    "timeout",
    "internal",
}


def test_the_codes_are_exactly_the_contracts() -> None:
    listed = """
        invalid_input unauthenticated forbidden url_blocked download_failed invalid_image model_unavailable
        out_of_memory gpu_fault timeout cancelled duplicate_in_progress idempotency_mismatch superseded poison_job
        deleted storage_unavailable result_too_large disk_full internal
    """
    assert set(listed.split()) == ERROR_CODES


def test_every_error_hangs_below_whoever_is_to_blame_and_has_a_code_of_its_own() -> None:
    assert set(JobError.__subclasses__()) == {CallerError, ModelError, InfrastructureError}
    codes = [leaf.code for leaf in LEAVES]
    assert len(codes) == len(set(codes))
    assert all("code" in vars(leaf) for leaf in LEAVES)


def test_cancelling_is_no_error_so_that_no_fallback_swallows_it() -> None:
    assert not issubclass(Cancelled, JobError)
    assert (Cancelled().code, Cancelled().retryable, Cancelled().message) == (
        "cancelled",
        False,
        "the job was cancelled",
    )


@pytest.mark.parametrize("leaf", PLAIN, ids=lambda leaf: leaf.code)
def test_the_default_message_is_one_line_of_plain_words(leaf: type[JobError]) -> None:
    message = leaf().message
    assert 15 <= len(message) <= 140
    assert "\n" not in message
    assert not re.search(r"[`*{}\\]|Raises|__|\.py\b", message)


@pytest.mark.parametrize("leaf", PLAIN, ids=lambda leaf: leaf.code)
def test_its_text_is_the_code_and_the_message(leaf: type[JobError]) -> None:
    assert str(leaf()) == f"{leaf.code}: {leaf().message}"
    assert str(leaf("internal.encoder")) == f"{leaf.code}: The video could not be encoded."


@pytest.mark.parametrize("leaf", PLAIN, ids=lambda leaf: leaf.code)
def test_what_may_pass_by_itself_is_retryable(leaf: type[JobError]) -> None:
    assert leaf().retryable is (leaf.code in RETRYABLE)


def test_an_error_may_know_better_than_its_class_whether_to_try_again() -> None:
    assert DownloadFailed(retryable=False).retryable is False
    assert DownloadFailed().retryable is True
    assert OutOfMemory(retryable=True).retryable is True
    assert GpuFault.retryable is True


def test_an_invalid_input_names_every_bad_field() -> None:
    error = InvalidInput(
        [FieldProblem("width", "invalid_input.multiple", of=8, got=1023), FieldProblem("seed", "invalid_input.unicode")]
    )
    assert str(error).startswith("invalid_input: width: must be a multiple of 8 (got 1023); seed: must be valid")
    assert [problem.field for problem in error.problems] == ["width", "seed"]


def test_an_invalid_input_without_a_field_still_says_something() -> None:
    assert str(InvalidInput([])) == "invalid_input: The request has fields that are not valid."
    assert str(FieldProblem("", "invalid_input.unknown")) == "is not a known field"


def test_an_error_keeps_the_id_and_the_parameters_of_what_it_says() -> None:
    error = DownloadFailed("download_failed.status", field="image_url", status=503, retryable=True)
    assert (error.message_id, error.params) == ("download_failed.status", {"field": "image_url", "status": 503})
    assert error.message == "image_url: the server answered with status 503"
    assert (OutOfMemory().message_id, OutOfMemory().params) == ("out_of_memory", {})
    assert (Cancelled().message_id, Cancelled().params) == ("cancelled", {})


def test_a_fields_problem_keeps_them_too() -> None:
    problem = FieldProblem("width", "invalid_input.multiple", of=8, got=1023)
    assert (problem.message_id, problem.params) == ("invalid_input.multiple", {"of": 8, "got": 1023})
    assert str(problem) == "width: must be a multiple of 8 (got 1023)"
    assert InvalidInput([problem]).message_id == "invalid_input.fields"


def test_a_text_that_is_in_no_catalogue_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        StorageUnavailable("the bucket is on fire")


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
@pytest.mark.parametrize(
    "error",
    [
        DownloadFailed("download_failed.status", field="image_url", status=404, retryable=False),
        OutOfMemory(),
        StorageUnavailable("storage_unavailable.kept", retryable=False),
        Cancelled(),
    ],
    ids=lambda error: str(error.code),
)
def test_a_copy_says_the_same(error: JobError | Cancelled, copied: Callable[..., JobError | Cancelled]) -> None:
    other = copied(error)
    assert other is not error
    assert type(other) is type(error)
    assert (str(other), vars(other)) == (str(error), vars(error))


def test_a_copy_of_an_invalid_input_still_names_its_fields() -> None:
    error = InvalidInput([FieldProblem("width", "invalid_input.multiple", of=8, got=1023)])
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (other.message, other.problems[0].field) == (error.message, "width")


def test_a_backend_error_is_not_for_clients() -> None:
    error = BackendError("storage", "refused")
    assert not isinstance(error, JobError)
    assert (str(error), error.service, error.kind) == ("storage refused", "storage", "refused")
    assert StorageUnavailable.code in ERROR_CODES
