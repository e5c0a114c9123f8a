"""Reads the service account key in any form: a path, JSON, base64 of JSON, or JSON with damaged newlines.

Knows these forms, and the files that are often mistaken for the key; connects to nothing. No message or exception
contains any of the key's content.
"""

import base64
import binascii
import contextlib
import json
import re
from pathlib import Path
from typing import Any

from worker.core.config import ConfigError
from worker.core.pasted import pem, tidy

WHERE = "the Firebase console makes one under Project settings, Service accounts, Generate new private key"

_OTHER_FILES = (
    (r"\{\{\s*RUNPOD_SECRET", "the name of a RunPod secret that RunPod did not fill in: no secret is called so"),
    (r'"project_info"|"configuration_version"', "the app's google-services.json"),
    (r"<plist|GOOGLE_APP_ID", "the app's GoogleService-Info.plist"),
    (r"apiKey|authDomain|\A.?AIza", "the configuration of a web app"),
    (r"authorized_user", "a person's own login, as gcloud keeps it (application_default_credentials.json)"),
    (r"impersonated_service_account|external_account", "a login that stands for a service account, without its key"),
    (r'"(?:installed|web)"\s*:', "an OAuth client"),
    (r"\A-----BEGIN [A-Z ]*PRIVATE KEY", "the private key alone; the whole JSON file is wanted"),
)
"""Text that identifies a wrong file -> what that file is."""
_OURS = re.compile(r"type\W+service_account\b")

_PEM = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----(.*?)-----END \1-----", re.DOTALL)
_AS_TYPED = str.maketrans("“”„‟\u00a0", '"""" ')
"""Quotes and spaces as word processors and web pages replace them."""
LONGEST_PATH = 1024


def read_key(value: str) -> dict[str, Any]:
    """Return the service account key from `FIREBASE_SERVICE_ACCOUNT_KEY`: a path, the JSON, or base64 of the JSON.

    Repairs the private key's newlines if they were escaped (any number of times), replaced by spaces, or lost.

    Raises:
        ConfigError: what is wrong with the key, without any of its content.
    """
    text = tidy(value)
    _refuse_other_files(text)
    if not text.startswith(("{", "[")) and _OURS.search(text) and (found := re.search(r"\{.*\}", text, re.DOTALL)):
        text = found[0]  # the JSON inside YAML, a script or a code block
    if not text.startswith(("{", "[")):
        text = _from_file(text) if len(text) < LONGEST_PATH and "\n" not in text else _from_base64(text) or text
        _refuse_other_files(text)
    key = _from_json(text)
    if not isinstance(key, dict):
        raise _wrong("must be a JSON object")
    fields = ("project_id", "client_email", "private_key", "token_uri")
    missing = [name for name in fields if not (isinstance(key.get(name), str) and key[name])]
    if key.get("type") != "service_account" or missing:
        raise _wrong("is not a service account key" + (f" (it lacks {', '.join(missing)})" if missing else ""))
    if found := _PEM.search(key["private_key"]):
        key["private_key"] = pem(found)
    return key


def _wrong(problem: str) -> ConfigError:
    return ConfigError(f"FIREBASE_SERVICE_ACCOUNT_KEY: {problem}")


def _refuse_other_files(text: str) -> None:
    if _OURS.search(text):
        return
    for sign, what in _OTHER_FILES:
        if re.search(sign, text):
            raise _wrong(f"is not the key of a service account but {what}; {WHERE}")


def _from_json(text: str) -> Any:
    text = re.sub(r",(\s*\})\Z", r"\1", text.rstrip(",; \r\n\t"))
    # If every newline of a multi-line key became a backslash and an n, it is JSON only once they are restored.
    unescaped = text.replace("\\\\n", "\n").replace("\\n", "\n")
    requoted = text.replace('\\"', '"').translate(_AS_TYPED)
    for attempt in (text, unescaped, requoted, text.replace("'", '"') if '"' not in text else ""):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(attempt, strict=False)
    if text.startswith("{") and not text.endswith("}"):
        raise _wrong("begins like JSON and has no end: only its first part arrived; base64 of the file has no newlines")
    raise _wrong("is not JSON, base64 of JSON, or the path of a JSON file")


def _from_file(text: str) -> str:
    try:
        data = Path(text.removeprefix("file://")).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError):  # RuntimeError: an unknown ~user
        content = _from_base64(text)
        if content is None:
            # Usually a path on the operator's machine, given to a container.
            where = "names a file that is not there" if _is_missing(text) else "names a file that cannot be read"
            raise _wrong(
                f"{where}; a path is one on the machine, or in the container, that the worker runs in"
            ) from None
        return content
    if data.startswith(b"0\x82"):
        raise _wrong(f"names a PKCS #12 file (.p12), and the key as JSON is wanted; {WHERE}")
    content = _decoded(data)
    return _from_base64(content) or content


def _is_missing(text: str) -> bool:
    try:
        return not Path(text.removeprefix("file://")).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _from_base64(text: str) -> str | None:
    """Decode base64: standard or URL-safe, padded or not, wrapped, framed by `certutil -encode`, or as a data URI."""
    body = re.sub(r"\Adata:[^,]*,|-----[A-Z ]+-----|\s|\\[nr]", "", text).rstrip("=,;").translate({45: "+", 95: "/"})
    try:
        content = _decoded(base64.b64decode(body + "=" * (-len(body) % 4), validate=True))
    except (binascii.Error, ValueError):
        return None
    _refuse_other_files(content)
    return content if content.startswith("{") else None


def _decoded(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 as PowerShell's `>` writes it, with or without a byte order mark."""
    return tidy(data.decode(json.detect_encoding(data), "replace"))
