"""`Documents` over Firestore: one call, one attempt, with the version that it was decided on.

Knows Google's client, which is imported when it is first used. Knows no field of a document and no job.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from worker.document.store import FieldValue, Snapshot
from worker.firebase.errors import translated

_NOT_ENCODED = (TypeError, ValueError)
"""What the client raises over a value that it cannot even send: a lone surrogate, a number of more than 64 bits."""
_OURS = re.compile(r"generations/[^/]+/files/[^/]+")
_MAX_PAGES = 20


class FirestoreStore:
    """`Documents` over Firestore. One call, one attempt: who calls knows better when to try again."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def read(self, path: str, *, timeout: float) -> Snapshot:
        """The document now, with the server's time."""
        with translated("firestore"):
            found = self.client.document(path).get(retry=None, timeout=timeout)
        read_at = found.read_time or datetime.now(UTC)
        return Snapshot(found.to_dict() if found.exists else None, found.update_time, read_at)

    def create(self, path: str, fields: Mapping[str, Any], *, timeout: float) -> object | None:
        """A new document; None where one exists."""
        from google.api_core.exceptions import Conflict

        with translated("firestore", invalid=_NOT_ENCODED):
            try:
                written = self.client.document(path).create(_plain(fields), retry=None, timeout=timeout)
            except Conflict:
                return None
        return written.update_time  # type: ignore[no-any-return]  # the client is untyped

    def update(self, path: str, fields: Mapping[str, Any], *, unchanged: object, timeout: float) -> object | None:
        """Change fields of the unchanged document; None where it changed or is gone."""
        from google.api_core.exceptions import FailedPrecondition, NotFound

        option = self.client.write_option(last_update_time=unchanged)
        with translated("firestore", invalid=_NOT_ENCODED):
            try:
                written = self.client.document(path).update(_plain(fields), option=option, retry=None, timeout=timeout)
            except (FailedPrecondition, NotFound):
                return None
        return written.update_time  # type: ignore[no-any-return]  # the client is untyped

    def delete(self, path: str, *, timeout: float) -> None:
        """Delete a document, whatever is in it; nothing happens where there is none."""
        with translated("firestore"):
            self.client.document(path).delete(retry=None, timeout=timeout)

    def older(self, status: str, field: str, than: datetime, *, limit: int, timeout: float) -> list[str]:
        """Paths of documents `generations/*/files/*` with this status whose time in `field` is earlier, oldest first.

        Other collections may be called `files`, too: what lies elsewhere is passed over, as far as `_MAX_PAGES` go.
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
        with translated("firestore"):
            for _ in range(_MAX_PAGES):
                page = query.get(retry=None, timeout=timeout)
                paths += [found.reference.path for found in page if _OURS.fullmatch(found.reference.path)]
                if len(page) < limit or len(paths) >= limit:
                    break
                query = query.start_after(page[-1])
        return paths[:limit]


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    from google.cloud.firestore import DELETE_FIELD, SERVER_TIMESTAMP

    sentinels = {FieldValue.SERVER_TIME: SERVER_TIMESTAMP, FieldValue.REMOVE: DELETE_FIELD}
    return {key: sentinels[value] if isinstance(value, FieldValue) else value for key, value in fields.items()}
