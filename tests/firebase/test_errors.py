"""Google's errors: each becomes one of ours, keeps its cause, and reveals nothing of its message."""

from typing import Any

import pytest
import requests
from firebase_admin import exceptions as firebase_errors
from google.api_core import exceptions as api
from google.auth import exceptions as google_auth
from google.cloud.storage.exceptions import DataCorruption

from worker.core.errors import BackendError
from worker.firebase.errors import google_errors, translated

MAPPED: list[tuple[type[Any], str]] = [
    (google_auth.TransportError, "unreachable"),
    (google_auth.TimeoutError, "unreachable"),
    (google_auth.RefreshError, "refused"),
    (google_auth.DefaultCredentialsError, "refused"),
    (google_auth.MalformedError, "refused"),
    (requests.ConnectionError, "unreachable"),
    (requests.Timeout, "unreachable"),
    (requests.exceptions.ChunkedEncodingError, "unreachable"),
    (requests.exceptions.SSLError, "unreachable"),
    (api.ServiceUnavailable, "unreachable"),
    (api.InternalServerError, "unreachable"),
    (api.BadGateway, "unreachable"),
    (api.GatewayTimeout, "unreachable"),
    (api.DeadlineExceeded, "unreachable"),
    (api.TooManyRequests, "unreachable"),
    (api.ResourceExhausted, "unreachable"),
    (api.Aborted, "unreachable"),
    (api.Cancelled, "unreachable"),
    (api.RetryError, "unreachable"),
    (DataCorruption, "unreachable"),
    (firebase_errors.UnavailableError, "unreachable"),
    (firebase_errors.UnknownError, "unreachable"),
    (firebase_errors.PermissionDeniedError, "refused"),
    (firebase_errors.UnauthenticatedError, "refused"),
    (ConnectionResetError, "unreachable"),
    (TimeoutError, "unreachable"),
    (api.Forbidden, "refused"),
    (api.PermissionDenied, "refused"),
    (api.Unauthenticated, "refused"),
    (api.NotFound, "refused"),
    (api.BadRequest, "refused"),
    (api.InvalidArgument, "invalid"),
    (ValueError, "refused"),
]


def made(vendor_error: type[Any]) -> Exception:
    """Return one of the vendor's errors, with a message that must stay private."""
    arguments = {api.RetryError: ("SECRET", None), DataCorruption: (None, "SECRET")}.get(vendor_error, ("SECRET",))
    error: Exception = vendor_error(*arguments)
    return error


@pytest.mark.parametrize(("vendor_error", "kind"), MAPPED, ids=[row[0].__name__ for row in MAPPED])
def test_a_vendor_error_becomes_ours_with_its_cause(
    vendor_error: type[Any], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = made(vendor_error)
    with pytest.raises(BackendError) as caught, translated("storage"):
        raise error
    assert (caught.value.service, caught.value.kind) == ("storage", kind)
    assert caught.value.__cause__ is error
    assert str(caught.value) == f"storage {kind}"
    (record,) = caplog.records
    assert record.getMessage() == f"storage: {vendor_error.__name__}"
    assert "SECRET" not in caplog.text


def test_every_row_of_the_table_is_tested() -> None:
    tested = [row[0] for row in MAPPED]
    for types, kind in google_errors():
        for row in types:
            assert any(issubclass(one, row) for one in tested), row
        assert kind in {"unreachable", "refused", "invalid"}


@pytest.mark.parametrize("error", [TypeError("a mistake of ours"), KeyError("x"), RuntimeError("x")])
def test_what_is_no_vendor_error_passes_through(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translated("storage"):
        raise error
    assert caught.value is error


def test_ours_is_not_wrapped_again() -> None:
    ours = BackendError("firestore", "refused")
    with pytest.raises(BackendError) as caught, translated("storage"):
        raise ours
    assert caught.value is ours


def test_what_may_pass_here_counts_as_that_whatever_it_means_elsewhere() -> None:
    for passing, kind in (((), "refused"), ((api.BadRequest,), "unreachable")):
        with pytest.raises(BackendError) as caught, translated("storage", passing):
            raise api.BadRequest("SECRET")  # type: ignore[no-untyped-call]  # google-api-core is partly typed
        assert caught.value.kind == kind
