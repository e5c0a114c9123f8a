"""Translates the errors of Google's clients into `BackendError`, by one table."""

import contextlib
import functools
import logging
from collections.abc import Iterator

from worker.core.errors import BackendError

log = logging.getLogger(__name__)


@functools.cache
def google_errors() -> tuple[tuple[tuple[type[BaseException], ...], str], ...]:
    """Return the exceptions of Google's clients with their `BackendError` kinds; the first match counts."""
    import requests
    from firebase_admin import exceptions as firebase
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.storage.exceptions import DataCorruption

    return (
        ((auth.TransportError, auth.TimeoutError, requests.ConnectionError, requests.Timeout), "unreachable"),
        ((auth.GoogleAuthError,), "refused"),
        ((api.InvalidArgument,), "invalid"),
        ((api.ServerError, api.TooManyRequests, api.RetryError, api.Aborted, api.Cancelled), "unreachable"),
        ((DataCorruption, requests.RequestException, OSError), "unreachable"),
        ((firebase.PermissionDeniedError, firebase.UnauthenticatedError), "refused"),
        ((firebase.FirebaseError,), "unreachable"),
        ((api.GoogleAPIError, ValueError), "refused"),
    )


@contextlib.contextmanager
def translated(
    service: str, passing: tuple[type[Exception], ...] = (), invalid: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Raise Google's errors as `BackendError`, logged by their type; other errors propagate unchanged.

    For this call, `passing` errors count as transient and `invalid` ones as caused by the content, whatever the table
    says.
    """
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        for types, kind in ((passing, "unreachable"), (invalid, "invalid"), *google_errors()):
            if isinstance(error, types):
                log.warning(
                    "%s: %s",
                    service,
                    type(error).__name__,
                    extra={"action": "backend_error", "service": service, "kind": kind},
                )
                raise BackendError(service, kind) from error
        raise
