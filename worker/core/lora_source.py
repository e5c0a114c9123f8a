"""Parses the source of a LoRA: a hub repository, a URL, or a local file.

Pure: asks no server and opens no file. A URL is accepted only if every parser finds the same host in it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

HUB_HOST = "huggingface.co"
MAX_HEADER_BYTES = 10_000_000
"""The longest header of a LoRA's file: 20,000 tensors and some megabytes of what trainers say. The format allows
100 MB, and a stranger's would be half a minute in which Python runs nothing else, and 3 GB."""
CIVITAI_HOSTS = frozenset({"civitai.com", "www.civitai.com"})

_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
_URL = re.compile(r"https://(?P<host>[A-Za-z0-9.-]+)(?::443)?(?P<rest>[/?#].*)?", re.IGNORECASE | re.DOTALL)
_HUB_PATH = re.compile(
    r"/(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(?:resolve|blob|raw)/(?P<revision>[^/?#]+)/(?P<file>[^?#]+)"
    r"|/tree/(?P<tree>[^/?#]+))?/?(?:[?#].*)?",
    re.ASCII,
)
_CIVITAI_PAGE = re.compile(r"/models/\d+(?:/[^?#]*)?\?(?:[^#]*&)?modelVersionId=(?P<version>\d+)(?:[&#].*)?")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a hub repository."""

    repository: str
    revision: str | None = None
    """A commit, tag or branch; None: the default branch."""
    file: str | None = None
    """Its path in the repository; None: the repository's only one."""

    @property
    def label(self) -> str:
        """Its public name."""
        return self.repository if self.file is None else f"{self.repository}/{_printable(self.file)}"


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file behind a URL."""

    url: str
    host: str

    @property
    def label(self) -> str:
        """Its public name: the last part of its path, because the query may contain a key."""
        path = re.split(r"[?#]", self.url, maxsplit=1)[0]
        name = unquote(path.rstrip("/").rpartition("/")[2])
        return _printable(name)[:80] or self.host


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine, or a folder that holds one."""

    path: Path

    @property
    def label(self) -> str:
        """Its public name: the file name without its folder."""
        return self.path.stem


LoraSource = HubFile | WebFile | LocalFile


def lora_source(text: str, weight_name: str | None = None) -> LoraSource:
    """Parse `org/name`, `org/name@revision`, an `https://` URL or an absolute path.

    A URL of the hub's pages becomes a `HubFile`, a Civitai model page with a version its download URL. `weight_name`
    chooses a file of a repository or folder.

    Raises:
        ValueError: the text is none of these, or `weight_name` is given with a URL.
    """
    text = text.strip()
    if text.startswith("/"):
        return LocalFile(Path(text) / (weight_name or ""))
    if found := _HUB_ID.fullmatch(text):
        return HubFile(found["name"], found["revision"], weight_name)
    address = _URL.fullmatch(text)
    if address is None:
        raise ValueError("must be a hub id (org/name, or org/name@revision), an https:// URL or an absolute path")
    host, rest = address["host"].lower().rstrip("."), address["rest"] or "/"
    if host == HUB_HOST and (page := _HUB_PATH.fullmatch(rest)):
        file = unquote(page["file"]) if page["file"] else weight_name
        revision = page["revision"] or page["tree"]
        return HubFile(page["name"], unquote(revision) if revision else None, file)
    if weight_name is not None:
        raise ValueError("weight_name says which file of a repository or a folder; a URL names its file")
    if host in CIVITAI_HOSTS and (page := _CIVITAI_PAGE.fullmatch(rest)):
        return WebFile(f"https://{host}/api/download/models/{page['version']}", host)
    return WebFile(f"https://{host}{rest}", host)


def is_same(one: LoraSource, other: LoraSource) -> bool:
    """Whether both name the same LoRA. On the hub revisions do not matter, and no file matches any file."""
    if isinstance(one, HubFile) and isinstance(other, HubFile):
        return one.repository == other.repository and (one.file == other.file or None in {one.file, other.file})
    return one == other


def is_allowed(source: LoraSource, allowed: tuple[str, ...]) -> bool:
    """Whether a client may use a source. `allowed`: `hub`, `civitai`, host names, `.example.com` for all subdomains."""
    if isinstance(source, LocalFile):
        return False
    if isinstance(source, HubFile):
        return "hub" in allowed or HUB_HOST in allowed
    if source.host in CIVITAI_HOSTS and "civitai" in allowed:
        return True
    return any(source.host == one or (one[:1] == "." and source.host.endswith(one)) for one in allowed)


def hub_url(endpoint: str, repository: str, revision: str, file: str) -> str:
    """Return a file's download URL: https://huggingface.co/docs/hub/models-downloading."""
    return f"{endpoint}/{repository}/resolve/{quote(revision, safe='')}/{quote(file)}"


def _printable(text: str) -> str:
    """What was percent-encoded in a URL may be anything: no line of a log or a message is broken by it."""
    return "".join(letter for letter in text if letter.isprintable())
