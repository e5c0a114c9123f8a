"""Everything of one user in Firebase: documents under their id or naming it, and objects in their folders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BELOW = ("generations", "users", "wallets", "submissions", "quotes")
NAMED = ("reports", "blocked")
FOLDERS = ("generating", "uploads")


def belongings(documents: Any, objects: Any, uid: str) -> set[str]:
    """Return the paths of a user's documents and objects, from a Firestore client and a bucket."""
    found = set()
    for name in BELOW:
        found |= set(_at_and_below(documents.collection(name).document(uid)))
    for name in NAMED:
        found |= {one.reference.path for one in documents.collection(name).stream() if one.get("uid") == uid}
    for folder in FOLDERS:
        found |= {blob.name for blob in objects.list_blobs(prefix=f"{folder}/{uid}/")}
    return found


def _at_and_below(document: Any) -> Iterator[str]:
    if document.get().exists:
        yield document.path
    for collection in document.collections():
        for below in collection.list_documents():
            yield from _at_and_below(below)
