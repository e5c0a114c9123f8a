"""Normalises values as people paste them into an environment.

Secret stores add newlines, Docker's env files keep quotes, consoles show URLs instead of names. A value that can mean
only one thing is accepted; any other raises `ValueError`. Knows no variable.
"""

import re

_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "\u2018": "\u2019", "„": "“", "«": "»"}
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"
_MISREAD_MARK = "ï»¿"
"""A UTF-8 byte order mark that was decoded as Latin-1."""

_SERVICES = {
    "console.firebase.google.com": r"/.*?/storage/(?!(?:files|rules|usage|extensions)(?:/|\Z))([^/]+)",
    "console.cloud.google.com": r"/storage/browser/(?:_details/)?([^/;]+)",
    "firebasestorage.googleapis.com": r"/v0/b/([^/]+)",
    "storage.googleapis.com": r"(?:/(?:(?:down|up)load/)?storage/v1/b|/projects/[^/]+/buckets)?/([^/]+)",
    "storage.cloud.google.com": r"/([^/]+)",
    "www.googleapis.com": r"/(?:(?:down|up)load/)?storage/v1/b/([^/]+)",
}
"""Host -> the pattern that finds the bucket's name in its URLs."""
_OWN_HOST = re.compile(r"([^/]+?)\.storage\.googleapis\.com|([^/]+\.(?:firebasestorage\.app|appspot\.com))")
_BUCKET = re.compile(r"(?!goog)[a-z0-9][a-z0-9_.-]{1,220}[a-z0-9]")
_ADDRESS = re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}")
_DATABASE = re.compile(r"[a-z][a-z0-9-]{2,61}[a-z0-9]")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def tidy(text: str) -> str:
    """Strip what surrounds a value: whitespace, newlines (also as `\\n`), quotes, byte order marks."""
    before = None
    while text != before:
        before = text
        text = re.sub(r"(?:\\[rn])+\Z", "", text.strip().strip(_INVISIBLE)).removeprefix(_MISREAD_MARK)
        if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
            text = text[1:-1]
    return text


def pem(found: re.Match[str]) -> str:
    """Rebuild a PEM block (label in group 1, content in group 2) in RFC 7468's form, with lines of 64 characters.

    The pasted content may have lost its line breaks, or have them as a backslash and an n.
    """
    body = re.sub(r"\\+[nrt]|[^A-Za-z0-9+/=]", "", found[2])
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {found[1]}-----", *lines, f"-----END {found[1]}-----", ""])


def bucket_name(text: str) -> str:
    """Extract the bucket's name from `gs://name/`, a URL of a console or a Google service, or a line of a web config.

    Valid names: https://cloud.google.com/storage/docs/buckets#naming

    Raises:
        ValueError: the text does not name exactly one bucket.
    """
    text = re.sub(r"\A[\"']?storageBucket[\"']?\s*[:=]\s*", "", tidy(text))
    # A config line may have lost the first of its value's two quotes above.
    text = tidy(re.sub(r"\s#.*", "", text).rstrip(",; ").strip("\"'"))
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower() if separator else ""
    if scheme in {"http", "https"} or text.startswith("//") or text.lower().split("/")[0] in _SERVICES:
        name = _in_address(text.partition("//")[2] or text)
    else:
        name = re.sub(r"\Aprojects/[^/]+/buckets/", "", rest if scheme == "gs" else text).rstrip("/")
        if "/" in name:
            raise ValueError("must name a bucket alone, without what lies in it, such as my-app.firebasestorage.app")
    parts = name.split(".")
    too_long = any(not 0 < len(part) <= 63 for part in parts)
    if not _BUCKET.fullmatch(name) or too_long or _ADDRESS.fullmatch(name):
        raise ValueError(
            "cannot be the name of a bucket: the Firebase console has it under Storage, such as "
            "my-app.firebasestorage.app; 3 to 63 of the characters a-z 0-9 - _ and dots, with a letter or digit at "
            "both ends, no capitals"
        )
    return name


def _in_address(address: str) -> str:
    host, _, path = re.split(r"[?#]", address, maxsplit=1)[0].partition("/")
    host = host.lower()
    if host in _SERVICES:
        found = re.match(_SERVICES[host], f"/{path}")
    else:
        found = None if path and not host.endswith(".storage.googleapis.com") else _OWN_HOST.fullmatch(host)
    if found is None:
        raise ValueError("is an address that names no bucket; the name is wanted, such as my-app.firebasestorage.app")
    return next(group for group in found.groups() if group)


def database_id(text: str) -> str:
    """Extract the id of a Firestore database from an id, a resource name, or a console's URL.

    `default` and `(default)` are different databases. Valid ids:
    https://firebase.google.com/docs/firestore/reference/rest/v1/projects.databases/create

    Raises:
        ValueError: the text contains no database id.
    """
    text = tidy(text)
    found = re.search(r"(?:\A|/)databases/([^/?#]+)", text)
    name = found[1] if found else text
    if name in {"(default)", "-default-", "%28default%29"}:  # the last two as they appear in URLs
        return "(default)"
    if not _DATABASE.fullmatch(name) or _UUID.fullmatch(name):
        raise ValueError(
            "must be the id of a Firestore database: (default), or 4 to 63 of the characters a-z 0-9 - beginning with "
            "a letter; without this variable it is (default)"
        )
    return name
