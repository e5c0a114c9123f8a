"""One Firebase app: its documents and its bucket behind our Protocols, and the verification of its users.

Google's clients are imported only here and in `firestore`, `gcs` and `errors`, on first use. Knows no document field,
no path and no job.
"""

import contextlib
import functools
import logging
import uuid
from collections.abc import Iterator
from typing import Any

from worker.core.config import ConfigError, Settings
from worker.core.errors import Unauthenticated
from worker.firebase.credentials import read_key
from worker.firebase.errors import translated
from worker.firebase.firestore import FirestoreStore, open_client
from worker.firebase.gcs import FirebaseBucket

HTTP_SECONDS = 5.0
CLOCK_SKEW_SECONDS = 10

log = logging.getLogger(__name__)


class FirebaseUsers:
    """Identifies users by their Firebase ID tokens."""

    def __init__(self, app: Any, *, check_revoked: bool = False) -> None:
        self._app, self._check_revoked = app, check_revoked

    def uid(self, id_token: str) -> str:
        """Return the user id of a valid token; checks signature, audience, issuer and expiry.

        With `check_revoked` Google is also asked whether the user has been disabled, deleted or signed out since.

        Raises:
            Unauthenticated: the token is invalid or expired.
            BackendError: Google's public keys or the user could not be fetched.
        """
        from firebase_admin import auth

        with translated("auth"):
            try:
                claims = auth.verify_id_token(
                    id_token, self._app, check_revoked=self._check_revoked, clock_skew_seconds=CLOCK_SKEW_SECONDS
                )
            except auth.ExpiredIdTokenError:
                raise Unauthenticated("unauthenticated.token_expired") from None
            except (auth.RevokedIdTokenError, auth.UserDisabledError, auth.UserNotFoundError):
                raise Unauthenticated("unauthenticated.token_revoked") from None
            except (auth.InvalidIdTokenError, ValueError, TypeError, AttributeError, RecursionError):
                # Google's library assumes that a token's header is an object.
                raise Unauthenticated("unauthenticated.token_invalid") from None
        return str(claims["uid"])

    def knows(self, uid: str) -> bool:
        """Whether the user exists; the request that `check_revoked` makes.

        Raises:
            BackendError: Google did not answer.
        """
        from firebase_admin import auth

        with translated("auth"):
            try:
                auth.get_user(uid, self._app)
            except auth.UserNotFoundError:
                return False
        return True


class Firebase:
    """One Firebase app, connected on first use."""

    def __init__(self, settings: Settings) -> None:
        """Check the configuration, without importing or connecting anything.

        Raises:
            ConfigError: the key is missing or cannot be read.
        """
        self._settings = settings
        self._key: dict[str, Any] | None = None
        secret = settings.firebase_service_account_key
        if secret is None and not settings.uses_emulators:
            raise ConfigError("FIREBASE_SERVICE_ACCOUNT_KEY: is not set")
        if secret is not None and not (settings.uses_emulators and settings.google_cloud_project):
            self._key = read_key(secret.get_secret_value())

    @functools.cached_property
    def _app(self) -> Any:
        import firebase_admin

        if self._key is None or self._settings.uses_emulators:
            from google.auth.credentials import AnonymousCredentials

            credential: Any = AnonymousCredentials()  # type: ignore[no-untyped-call]  # google-auth is partly typed
        else:
            try:
                credential = firebase_admin.credentials.Certificate(self._key)
            except ValueError:
                # firebase-admin's message may quote the key.
                raise ConfigError("FIREBASE_SERVICE_ACCOUNT_KEY: its private key cannot be read") from None
        options = {"projectId": self.project, "httpTimeout": HTTP_SECONDS}
        return firebase_admin.initialize_app(credential, options, name=f"worker-{uuid.uuid4()}")

    @property
    def project(self) -> str:
        """The project id: the key's; with emulators GOOGLE_CLOUD_PROJECT takes precedence."""
        if self._key is not None:
            return str(self._key["project_id"])
        return self._settings.google_cloud_project or "demo-worker"

    @property
    def account(self) -> str | None:
        """The service account's address; None with emulators, which need none."""
        return None if self._key is None or self._settings.uses_emulators else str(self._key["client_email"])

    def __str__(self) -> str:
        where = " (emulators)" if self._settings.uses_emulators else ""
        bucket = self._settings.firebase_storage_bucket or "none"
        return f"project {self.project}{where}, database {self._settings.firestore_database}, bucket {bucket}"

    @functools.cached_property
    def documents(self) -> FirestoreStore | None:
        """Firestore; None if only the Storage emulator runs, or if the client rejects the database name."""
        if self._settings.uses_emulators and not self._settings.firestore_emulator_host:
            return None
        app = self._app
        with _without("FIRESTORE_DATABASE"):
            names = (app.project_id, self._settings.firestore_database)
            credentials, emulator = app.credential.get_credential(), self._settings.firestore_emulator_host
            reopen = functools.partial(open_client, *names, credentials, emulator or None)
            return FirestoreStore(reopen(), reopen)
        return None

    @functools.cached_property
    def bucket(self) -> FirebaseBucket | None:
        """The configured bucket; None if none is configured, or if the client rejects its name."""
        if not self._settings.firebase_storage_bucket:
            return None
        if self._settings.uses_emulators and not self._settings.storage_emulator_host:
            return None
        from firebase_admin import storage

        with _without("FIREBASE_STORAGE_BUCKET"):
            return FirebaseBucket(storage.bucket(self._settings.firebase_storage_bucket, self._app))
        return None

    @functools.cached_property
    def users(self) -> FirebaseUsers:
        """The verifier of ID tokens."""
        return FirebaseUsers(self._app, check_revoked=self._settings.check_revoked)

    def connect(self) -> None:
        """Import and build the clients now, before the first job needs them. Either works without the other.

        Raises:
            ConfigError: Google's library rejects the key.
        """
        _ = (self._app, self.documents, self.bucket)


@contextlib.contextmanager
def _without(variable: str) -> Iterator[None]:
    """If Google's library rejects the value of `variable`, log it and go on without that service."""
    try:
        yield
    except ValueError:
        log.error("%s: Google's library does not take it", variable, extra={"action": "firebase_disabled"})  # noqa: TRY400 - no traceback
