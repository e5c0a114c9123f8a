"""Fingerprints a request: a short text that is the same for the same request in every version of the worker.

It is stored with results and documents, so it must outlive the code that computed it. Fields at their defaults are left
out, so a field that is added later does not change the fingerprint of requests that do not use it. Numbers and keys are
serialized by RFC 8785 (canonical JSON), so 20 and 20.0 give the same fingerprint, and so does any order of keys.
"""

import hashlib

import rfc8785

from worker.api.request import BaseRequest

VERSION = "v1"
"""Prefix; raise it when the same request would get another fingerprint."""
WHO_ASKS = frozenset({"id_token", "user_id", "file_uid", "use_cloud_storage", "preview"})
"""Fields for the caller, the destination and the viewer of the result, which do not change the result."""


def canonical_sha256(value: dict[str, object]) -> str:
    """Return the SHA-256, in hex, of the canonical JSON of a JSON object.

    Raises:
        ValueError, RecursionError: it has no canonical form (a lone surrogate, an integer past 2^53, too deep).
    """
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()  # type: ignore[arg-type]  # it raises ValueError for other values


def fingerprint(request: BaseRequest) -> str:
    """Return `v1:<sha256>` over the request, without the fields in `WHO_ASKS`."""
    asked = request.model_dump(mode="json", exclude=set(WHO_ASKS), exclude_defaults=True)
    return f"{VERSION}:{canonical_sha256(asked)}"
