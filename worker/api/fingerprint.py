"""What a request asks for, as one short text: the same for the same request, in every version of the worker.

It is stored with results and documents, so it must outlive the code that made it. Fields at their defaults are left
out: a field that is added later changes the fingerprint of no request that does not use it. Numbers and keys are
written as RFC 8785 (canonical JSON) says, so that 20 and 20.0, and any order of keys, are the same.
"""

import hashlib

import rfc8785

from worker.api.request import BaseRequest

VERSION = "v1"
"""Stands in front; to be raised when the same request would get another fingerprint."""
WHO_ASKS = frozenset({"id_token", "user_id", "file_uid", "use_cloud_storage", "preview"})
"""Fields that say who asks, where the result goes and who looks on, not what is asked for."""


def canonical_sha256(value: dict[str, object]) -> str:
    """SHA-256, in hex, over the canonical JSON of a JSON object.

    Raises:
        ValueError, RecursionError: it has no canonical form (a lone surrogate, an integer past 2^53, too deep).
    """
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()  # type: ignore[arg-type]  # what is no JSON is its ValueError


def fingerprint(request: BaseRequest) -> str:
    """`v1:<sha256>` over what the request asks for, without who asks."""
    asked = request.model_dump(mode="json", exclude=set(WHO_ASKS), exclude_defaults=True)
    return f"{VERSION}:{canonical_sha256(asked)}"
