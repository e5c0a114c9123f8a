"""`DocumentStore` on Firestore: each call is one attempt.

Imports Google's client on first use. Knows no document field and no job.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.core.errors import BackendError
from worker.document.store import FieldValue, Snapshot
from worker.firebase.errors import translated

_NOT_ENCODED = (TypeError, ValueError)
"""What the client raises for a value that it cannot encode: a lone surrogate, an integer of more than 64 bits."""
_OURS = re.compile(r"generations/[^/]+/files/[^/]+")
_MAX_PAGES = 20

_CLOCK_SECONDS = 2.0
"""How far wall clock and monotonic clock may diverge before the server's time counts as unknown."""
_RENEW_SECONDS = 4.0
"""A client without a response for this long is replaced when its next call fails."""
_CHANNEL_OPTIONS = {
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.min_reconnect_backoff_ms": 2000,
    "grpc.keepalive_timeout_ms": 4000,
    "grpc.use_local_subchannel_pool": 1,
}
"""With these, Firestore is used again within 5 s after an outage of any length. By default gRPC's pause between two
connection attempts grows to two minutes, an attempt may take 20 s (`min_reconnect_backoff_ms` sets that, too), and so
may the detection of a dead connection. No option bounds its pause between name lookups, so a new client is opened; the
local subchannel pool keeps it from sharing the old one's connections and back-off."""


def open_client(project: str | None, database: str, credentials: Any, emulator: str | None = None) -> Any:
    """Return Google's client, which connects on first use; `emulator` is the address of an emulator.

    Raises:
        ValueError: the client rejects the project or the database.
    """
    if not isinstance(database, str):
        raise ValueError("a database has a name")  # noqa: TRY004 - what Google's own clients raise
    import grpc  # type: ignore[import-untyped]  # its stubs are a package of their own
    from google.cloud.firestore import Client
    from google.cloud.firestore_v1.services.firestore import client as gapic
    from google.cloud.firestore_v1.services.firestore.transports.grpc import FirestoreGrpcTransport

    class Transport(FirestoreGrpcTransport):
        @classmethod
        def create_channel(cls, *address: Any, **how: Any) -> Any:
            return super().create_channel(*address, **{**how, "options": _with_ours(how.get("options"))})

    class BoundedClient(Client):
        """Google's client with our channel options."""

        @property
        def _firestore_api(self) -> Any:
            return self._firestore_api_helper(Transport, gapic.FirestoreClient, gapic)

        def _emulator_channel(self, transport: Any) -> Any:
            unbounded = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
            return grpc.insecure_channel(self._emulator_host, options=_with_ours(unbounded))

        def close(self) -> None:
            super().close()  # type: ignore[no-untyped-call]  # Google's client is partly typed
            if self._firestore_api_internal is not None:
                self._firestore_api_internal.transport.close()

    client = BoundedClient(project=project, credentials=credentials, database=database)
    client._emulator_host = emulator  # not from the environment, which may have changed
    return client


def _with_ours(options: Iterable[tuple[str, Any]] | None) -> list[tuple[str, Any]]:
    return [*(options or ()), *_CHANNEL_OPTIONS.items()]


class FirestoreStore:
    """Implements `DocumentStore` on Firestore. Each call is one attempt; the caller decides about retries."""

    def __init__(self, client: Any, reopen: Callable[[], Any] | None = None) -> None:
        """`reopen` makes a new client, which replaces one whose service has not answered for long."""
        self.client = client
        self._reopen, self._before = reopen, client
        self._lock = threading.Lock()
        self._heard_at = time.monotonic()
        self._clock: tuple[datetime, float, float] | None = None

    def read(self, path: str, *, timeout: float) -> Snapshot:
        """As `DocumentStore.read`."""
        with self._asking():
            found = self.client.document(path).get(retry=None, timeout=timeout)
        read_at = found.read_time or datetime.now(UTC)
        self._set_clock(read_at)
        return Snapshot(found.to_dict() if found.exists else None, found.update_time, read_at)

    def create(self, path: str, fields: Mapping[str, Any], *, timeout: float) -> object | None:
        """As `DocumentStore.create`."""
        from google.api_core.exceptions import Conflict

        with self._asking(invalid=_NOT_ENCODED):
            try:
                written = self.client.document(path).create(_plain(fields), retry=None, timeout=timeout)
            except Conflict:
                return None
        self._set_clock(written.update_time)
        return written.update_time  # type: ignore[no-any-return]  # the client is untyped

    def update(self, path: str, fields: Mapping[str, Any], *, unchanged: object, timeout: float) -> object | None:
        """As `DocumentStore.update`."""
        from google.api_core.exceptions import FailedPrecondition, NotFound

        option = self.client.write_option(last_update_time=unchanged)
        with self._asking(invalid=_NOT_ENCODED):
            try:
                written = self.client.document(path).update(_plain(fields), option=option, retry=None, timeout=timeout)
            except (FailedPrecondition, NotFound):
                return None
        self._set_clock(written.update_time)
        return written.update_time  # type: ignore[no-any-return]  # the client is untyped

    def delete(self, path: str, *, timeout: float) -> None:
        """Delete a document unconditionally; no effect if it does not exist."""
        with self._asking():
            self.client.document(path).delete(retry=None, timeout=timeout)

    def older(self, status: str, field: str, than: datetime, *, limit: int, timeout: float) -> list[str]:
        """Return paths `generations/*/files/*` with this status whose time in `field` is before `than`, oldest first.

        Documents of other collections named `files` are skipped, over at most `_MAX_PAGES` pages.
        """
        from google.cloud.firestore import FieldFilter

        query = (
            self.client.collection_group("files")
            .where(filter=FieldFilter("status", "==", status))
            .where(filter=FieldFilter(field, "<", than))
            .order_by(field)
            .select([field])
            .limit(limit)
        )
        paths: list[str] = []
        with self._asking():
            for _ in range(_MAX_PAGES):
                page = query.get(retry=None, timeout=timeout)
                paths += [found.reference.path for found in page if _OURS.fullmatch(found.reference.path)]
                if len(page) < limit or len(paths) >= limit:
                    break
                query = query.start_after(page[-1])
        return paths[:limit]

    def now(self) -> datetime | None:
        """The server's time by its last response; None if this machine's clock was suspended or set since."""
        if self._clock is None:
            return None
        told, monotonic, wall = self._clock
        passed = time.monotonic() - monotonic
        return told + timedelta(seconds=passed) if abs(time.time() - wall - passed) < _CLOCK_SECONDS else None

    def written_at(self, version: object) -> datetime:
        """As `DocumentStore.written_at`: a version is its update time."""
        assert isinstance(version, datetime)  # noqa: S101 - what `create` and `update` return
        return version

    def _set_clock(self, told: datetime) -> None:
        self._clock = told, time.monotonic(), time.time()

    @contextlib.contextmanager
    def _asking(self, invalid: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        try:
            with translated("firestore", invalid=invalid):
                yield
        except BackendError as error:
            if error.kind == "unreachable":
                self._renew()
            raise
        self._heard_at = time.monotonic()

    def _renew(self) -> None:
        with self._lock:
            if self._reopen is None or time.monotonic() - self._heard_at < _RENEW_SECONDS:
                return
            # Other threads may still use the current client, but after so long not the one before it.
            before, self._before, self.client = self._before, self.client, self._reopen()
            self._heard_at = time.monotonic()
            if before is not self._before:
                before.close()


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    from google.cloud.firestore import DELETE_FIELD, SERVER_TIMESTAMP

    sentinels = {FieldValue.SERVER_TIME: SERVER_TIMESTAMP, FieldValue.REMOVE: DELETE_FIELD}
    return {key: sentinels[value] if isinstance(value, FieldValue) else value for key, value in fields.items()}
