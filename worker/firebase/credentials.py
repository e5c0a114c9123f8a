"""The service account key, in whatever shape it arrived: a path, JSON, base64 of it, with its newlines damaged.

Knows shapes; connects to nothing. No message and no exception holds any of the key's content.
"""

import base64
import binascii
import contextlib
import json
from pathlib import Path
from typing import Any

from worker.core.config import ConfigError


def read_key(value: str) -> dict[str, Any]:
    """A service account key from `FIREBASE_SERVICE_ACCOUNT_KEY`: a path, the JSON, or base64 of the JSON.

    Newlines of the private key that arrived as the two characters `\\n`, once or twice escaped, are repaired.

    Raises:
        ConfigError: what is wrong with it, without any of its content.
    """
    text = _unquoted(value)
    if not text.startswith("{"):
        text = _from_file(text) if len(text) < 1024 else _from_base64(text)
    key = _from_json(text)
    if not isinstance(key, dict):
        raise ConfigError("FIREBASE_SERVICE_ACCOUNT_KEY: must be a JSON object")
    missing = [name for name in ("project_id", "client_email", "private_key", "token_uri") if not key.get(name)]
    if key.get("type") != "service_account" or missing:
        raise ConfigError(
            "FIREBASE_SERVICE_ACCOUNT_KEY: is not a service account key"
            + (f" (it lacks {', '.join(missing)})" if missing else "")
        )
    key["private_key"] = str(key["private_key"]).replace("\\\\n", "\n").replace("\\n", "\n").strip().strip('"') + "\n"
    return key


def _unquoted(value: str) -> str:
    # An env file that Docker reads keeps the quotes that a shell would take away.
    text = value.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _from_json(text: str) -> Any:
    # A multi-line key whose every newline became a backslash and an n is no JSON before they are newlines again.
    for attempt in (text, text.replace("\\\\n", "\n").replace("\\n", "\n")):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(attempt, strict=False)
    raise ConfigError("FIREBASE_SERVICE_ACCOUNT_KEY: is not JSON, base64 of JSON, or the path of a JSON file")


def _from_file(text: str) -> str:
    try:
        return Path(text).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a ~user whom nobody knows
        with contextlib.suppress(ConfigError):
            return _from_base64(text)
        raise ConfigError("FIREBASE_SERVICE_ACCOUNT_KEY: names a file that cannot be read") from None


def _from_base64(text: str) -> str:
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, ValueError):
        raise ConfigError("FIREBASE_SERVICE_ACCOUNT_KEY: is neither JSON nor base64 of JSON") from None
