"""Firebase, thinly: the bucket, the documents and the identity of users, through firebase-admin.

The only module that imports Google's clients, and only when they are first needed. Google's errors become ours in one
table here. Knows no field of a document, no path and no job.
"""

import base64
import contextlib
import functools
import logging
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from worker.config import ConfigError, Settings
from worker.errors import BackendError, Unauthenticated
from worker.service_key import read_key
from worker.status import FieldValue, Snapshot
from worker.storage import ObjectInfo

CONNECT_SECONDS = 2.5
READ_SECONDS = 4.0
"""Longest silence of the other side while a request is under way; a slow but moving upload is never cut."""
HTTP_SECONDS = 5.0
CLOCK_SKEW_SECONDS = 10

T = TypeVar("T")

log = logging.getLogger(__name__)


@functools.cache
def _google_errors() -> tuple[tuple[tuple[type[BaseException], ...], str], ...]:
    """What Google's clients raise, and what it means for the next step; the first match counts."""
    import requests
    from firebase_admin import exceptions as firebase
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.storage.exceptions import DataCorruption

    return (
        ((auth.TransportError, auth.TimeoutError, requests.ConnectionError, requests.Timeout), "unreachable"),
        ((auth.GoogleAuthError,), "refused"),
        ((api.ServerError, api.TooManyRequests, api.RetryError, api.Aborted, api.Cancelled), "unreachable"),
        ((DataCorruption, requests.RequestException, OSError), "unreachable"),
        ((firebase.PermissionDeniedError, firebase.UnauthenticatedError), "refused"),
        ((firebase.FirebaseError,), "unreachable"),
        ((api.GoogleAPIError, ValueError), "refused"),
    )


@contextlib.contextmanager
def _translated(service: str) -> Iterator[None]:
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        for types, kind in _google_errors():
            if isinstance(error, types):
                log.warning(
                    "%s: %s",
                    service,
                    type(error).__name__,
                    extra={"action": "backend_error", "service": service, "kind": kind},
                )
                raise BackendError(service, kind) from error
        raise


class FirestoreDocuments:
    """`Documents` over Firestore. One call, one attempt: who calls knows better when to try again."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def read(self, path: str, *, timeout: float) -> Snapshot:
        """The document now, with the server's time."""
        with _translated("firestore"):
            found = self.client.document(path).get(retry=None, timeout=timeout)
        read_at = found.read_time or datetime.now(UTC)
        return Snapshot(found.to_dict() if found.exists else None, found.update_time, read_at)

    def create(self, path: str, fields: Mapping[str, Any], *, timeout: float) -> object | None:
        """A new document; None where one exists."""
        from google.api_core.exceptions import Conflict

        with _translated("firestore"):
            try:
                written = self.client.document(path).create(_plain(fields), retry=None, timeout=timeout)
            except Conflict:
                return None
        return written.update_time  # type: ignore[no-any-return]  # the client is untyped

    def update(self, path: str, fields: Mapping[str, Any], *, unchanged: object, timeout: float) -> object | None:
        """Change fields of the unchanged document; None where it changed or is gone."""
        from google.api_core.exceptions import FailedPrecondition, NotFound

        option = self.client.write_option(last_update_time=unchanged)
        with _translated("firestore"):
            try:
                written = self.client.document(path).update(_plain(fields), option=option, retry=None, timeout=timeout)
            except (FailedPrecondition, NotFound):
                return None
        return written.update_time  # type: ignore[no-any-return]  # the client is untyped

    def expired(self, *, limit: int, timeout: float) -> list[str]:
        """Paths of all users' documents that are `processing` past their `expires_at`, oldest first."""
        from google.cloud.firestore import FieldFilter

        query = (
            self.client.collection_group("files")
            .where(filter=FieldFilter("status", "==", "processing"))
            .where(filter=FieldFilter("expires_at", "<", datetime.now(UTC)))
            .order_by("expires_at")
            .limit(limit)
        )
        with _translated("firestore"):
            return [str(found.reference.path) for found in query.get(retry=None, timeout=timeout)]


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    from google.cloud.firestore import DELETE_FIELD, SERVER_TIMESTAMP

    sentinels = {FieldValue.SERVER_TIME: SERVER_TIMESTAMP, FieldValue.REMOVE: DELETE_FIELD}
    return {key: sentinels[value] if isinstance(value, FieldValue) else value for key, value in fields.items()}


class FirebaseBucket:
    """`Bucket` over Google Cloud Storage, with token metadata, preconditions and checked CRC32C."""

    def __init__(self, bucket: Any) -> None:
        self._bucket = bucket
        self.name: str = bucket.name

    def info(self, path: str, *, deadline: float) -> ObjectInfo | None:
        """The object's generation, checksum and metadata."""
        blob = _within(deadline, functools.partial(self._bucket.get_blob, path))
        return _object_info(blob) if blob is not None else None

    def upload(
        self,
        path: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        replaces: int,
        deadline: float,
    ) -> ObjectInfo | None:
        """One conditional upload; retried within the deadline, which the precondition makes safe."""
        from google.api_core.exceptions import PreconditionFailed

        blob = self._bucket.blob(path)
        blob.metadata = dict(metadata)
        blob.cache_control = "private, max-age=31536000"

        def once(**bounds: Any) -> ObjectInfo | None:
            try:
                blob.upload_from_string(
                    data, content_type=content_type, if_generation_match=replaces, checksum="crc32c", **bounds
                )
            except PreconditionFailed:
                return None
            return _object_info(blob)

        return _within(deadline, once)

    def adopt(self, path: str, metadata: Mapping[str, str], *, seen: ObjectInfo, deadline: float) -> ObjectInfo | None:
        """Change metadata of the object as it was seen; None where it is gone or changed."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        blob = self._bucket.blob(path)
        blob.metadata = dict(metadata)
        as_seen = {"if_generation_match": seen.generation, "if_metageneration_match": seen.metageneration}

        def once(**bounds: Any) -> ObjectInfo | None:
            try:
                blob.patch(**as_seen, **bounds)
            except (NotFound, PreconditionFailed):
                return None
            return _object_info(blob)

        return _within(deadline, once)

    def delete(self, path: str, *, generation: int, metageneration: int, deadline: float) -> None:
        """Delete the object as it was left; a missing, newer or adopted one is left alone."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        as_left = {"if_generation_match": generation, "if_metageneration_match": metageneration}

        def once(**bounds: Any) -> None:
            with contextlib.suppress(NotFound, PreconditionFailed):
                self._bucket.blob(path).delete(**as_left, **bounds)

        _within(deadline, once)

    def read(self, path: str, *, max_bytes: int, deadline: float) -> bytes | None:
        """The whole object, after a look at its size."""
        blob = _within(deadline, functools.partial(self._bucket.get_blob, path))
        if blob is None:
            return None
        if blob.size > max_bytes:
            raise ValueError(blob.size)
        data: bytes = _within(deadline, functools.partial(blob.download_as_bytes, if_generation_match=blob.generation))
        return data

    def crc32c(self, data: bytes) -> str:
        """Base64 of the big-endian CRC32C."""
        import google_crc32c

        return base64.b64encode(struct.pack(">I", google_crc32c.value(data))).decode()


def _within(deadline: float, call: Callable[..., T]) -> T:
    """`call`, tried again while what failed may pass and there is time.

    Google's own retries give the last try as much time as the first one had, past any deadline.
    """
    pause = 0.2
    while True:
        left = max(0.1, deadline - time.monotonic())
        try:
            with _translated("storage"):
                return call(timeout=(min(CONNECT_SECONDS, left), min(READ_SECONDS, left)), retry=None)
        except BackendError as error:
            if error.kind != "unreachable" or time.monotonic() + pause >= deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


def _object_info(blob: Any) -> ObjectInfo:
    return ObjectInfo(
        generation=int(blob.generation or 0),
        size=int(blob.size or 0),
        crc32c=blob.crc32c or "",
        metadata=dict(blob.metadata or {}),
        content_type=blob.content_type or "",
        metageneration=int(blob.metageneration or 1),
    )


class FirebaseUsers:
    """Who a user is, by the ID token that Firebase gave their phone."""

    def __init__(self, app: Any, *, check_revoked: bool = False) -> None:
        self._app, self._check_revoked = app, check_revoked

    def uid(self, id_token: str) -> str:
        """The user id of a valid token: signature, audience, issuer and expiry are checked.

        With `check_revoked` Google is asked whether the user was disabled, deleted or signed out since.

        Raises:
            Unauthenticated: the token is not valid (any more).
            BackendError: Google's public keys or the user could not be fetched.
        """
        from firebase_admin import auth

        with _translated("auth"):
            try:
                claims = auth.verify_id_token(
                    id_token, self._app, check_revoked=self._check_revoked, clock_skew_seconds=CLOCK_SKEW_SECONDS
                )
            except auth.ExpiredIdTokenError:
                raise Unauthenticated("the id_token has expired; sign in again or refresh it") from None
            except (auth.RevokedIdTokenError, auth.UserDisabledError, auth.UserNotFoundError):
                raise Unauthenticated("the user of this id_token was signed out, disabled or deleted") from None
            except (auth.InvalidIdTokenError, ValueError, TypeError, AttributeError, RecursionError):
                # Google's library takes a token's header for an object, whatever it is.
                raise Unauthenticated("the id_token is not valid for this project") from None
        return str(claims["uid"])


class Firebase:
    """One Firebase app, connected when first used."""

    def __init__(self, settings: Settings) -> None:
        """Check what is configured, without importing or connecting anything.

        Raises:
            ConfigError: the key cannot be read, or nothing says which project it is.
        """
        self._settings = settings
        self._key: dict[str, Any] | None = None
        if not settings.uses_emulators:
            if settings.firebase_service_account_key is None:
                raise ConfigError("FIREBASE_SERVICE_ACCOUNT_KEY: is not set")
            self._key = read_key(settings.firebase_service_account_key.get_secret_value())

    @functools.cached_property
    def _app(self) -> Any:
        import firebase_admin

        if self._key is None:
            from google.auth.credentials import AnonymousCredentials

            credential: Any = AnonymousCredentials()  # type: ignore[no-untyped-call]  # google-auth is partly typed
        else:
            credential = firebase_admin.credentials.Certificate(self._key)
        options = {"projectId": self.project, "httpTimeout": HTTP_SECONDS}
        return firebase_admin.initialize_app(credential, options, name=f"worker-{uuid.uuid4()}")

    @property
    def project(self) -> str:
        """The Firebase project's id."""
        return str(self._key["project_id"]) if self._key else self._settings.google_cloud_project or "demo-worker"

    @functools.cached_property
    def documents(self) -> FirestoreDocuments | None:
        """Firestore; None where only the Storage emulator is there."""
        if self._key is None and not self._settings.firestore_emulator_host:
            return None
        from firebase_admin import firestore

        return FirestoreDocuments(firestore.client(self._app))

    @functools.cached_property
    def bucket(self) -> FirebaseBucket | None:
        """The configured bucket; None where none is configured."""
        if not self._settings.firebase_storage_bucket:
            return None
        if self._key is None and not self._settings.storage_emulator_host:
            return None
        from firebase_admin import storage

        return FirebaseBucket(storage.bucket(self._settings.firebase_storage_bucket, self._app))

    @functools.cached_property
    def users(self) -> FirebaseUsers:
        """Verification of ID tokens."""
        return FirebaseUsers(self._app, check_revoked=self._settings.check_revoked)

    def connect(self) -> None:
        """Import and build the clients now, before the first job needs them.

        Raises:
            ConfigError: the key is not one that Google's library takes.
        """
        try:
            _ = (self.documents, self.bucket)
        except ValueError:
            # firebase-admin's message may quote the key.
            raise ConfigError("FIREBASE_SERVICE_ACCOUNT_KEY: its private key cannot be read") from None
