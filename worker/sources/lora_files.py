"""Finds or downloads the LoRA files that a request names.

Each of the operator's tokens is sent only to its own host. Knows the hub's addresses and how a .safetensors file
begins; does not know its content, which the engine reads.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from worker.api.loras import WantedLora
from worker.core.config import Settings
from worker.core.errors import DownloadFailed, FieldProblem, InvalidInput, ModelUnavailable
from worker.core.lora_source import CIVITAI_HOSTS, HUB_HOST, MAX_HEADER_BYTES, HubFile, LocalFile, WebFile, hub_url
from worker.core.messages import text
from worker.core.types import LoraFile
from worker.sources.http import Fetcher
from worker.sources.lora_cache import InUse, LoraCache, cache_folder

DEADLINE_SECONDS = 300.0
"""Limit for all LoRAs of a job together: 1 GiB at 4 MB/s, and well within a job's time limit."""
RESOLVED_SECONDS = 600.0
"""How long the commit of a branch is cached; longer while the hub is unreachable."""
_MAX_COMMITS = 256
"""Cached repository listings; one may name thousands of files."""
_MAX_CHARACTERS = 8_000_000
"""Of the file names in them. A stranger's repository has 100,000 files, and as many revisions as they like: 256 of its
answers would be 2.8 GB."""
STANDARD_NAME = "pytorch_lora_weights.safetensors"
"""diffusers' and PEFT's name for a LoRA file; chosen if a repository has several."""
_MAX_LISTING_BYTES = 4 << 20
_MAX_HEADER_BYTES = 100_000_000
"""Header limit of a .safetensors file: https://github.com/huggingface/safetensors#format, "Attacks"."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAMED = 12
"""Files of a repository that an error message lists."""
_BEGINNINGS = (
    (re.compile(rb"\s*(?:<!doctype|<html|<\?xml|<head)", re.IGNORECASE), text("invalid_input.lora_is_html")),
    (re.compile(rb"\s*[{\[]"), text("invalid_input.lora_is_json")),
    (re.compile(rb"PK\x03\x04"), text("invalid_input.lora_is_archive")),
    (re.compile(rb"\x80[\x02-\x05]"), text("invalid_input.lora_is_pickle")),
    (re.compile(rb"GGUF"), text("invalid_input.lora_is_gguf")),
    (re.compile(rb"\Z"), text("invalid_input.lora_is_empty")),
)
"""How other files begin -> what they are."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Commit:
    """A resolved revision of a repository."""

    sha: str
    files: tuple[str, ...]
    found_at: float


class LoraFiles:
    """Fetches and caches LoRAs. Blocking: call it in a thread. Only tests pass a fetcher or a hub address."""

    def __init__(self, settings: Settings, fetcher: Fetcher | None = None, hub: str = f"https://{HUB_HOST}") -> None:
        self._fetcher = fetcher or Fetcher(settings.max_lora_bytes)
        self._fetcher = dataclasses.replace(self._fetcher, max_bytes=settings.max_lora_bytes, accept=b"*/*")
        self._cache = LoraCache(cache_folder(settings.lora_cache_dir), settings.lora_cache_bytes)
        self._hub = hub
        self._hub_token = settings.hf_token.get_secret_value() if settings.hf_token else None
        self._civitai_token = settings.civitai_token.get_secret_value() if settings.civitai_token else None
        self._commits: dict[tuple[str, str | None, bool], _Commit] = {}
        self._digests: dict[tuple[Path, int, int], str] = {}

    def load(
        self, wanted: Sequence[WantedLora], in_use: InUse, raise_if_stopped: Callable[[], None] = lambda: None
    ) -> tuple[LoraFile, ...]:
        """Return the files, in the order of `wanted`.

        Args:
            wanted: the LoRAs that `wanted_loras` allowed.
            in_use: keeps the files on disk as long as it lives.
            raise_if_stopped: called during downloads and waits; its errors propagate.

        Raises:
            UrlBlocked, DownloadFailed, InvalidInput: naming the field.
            ModelUnavailable: a file that the operator named is missing, or is another one.
            DiskFull: there is no room for a file.
        """
        deadline = time.monotonic() + DEADLINE_SECONDS

        def ask() -> None:
            raise_if_stopped()
            if time.monotonic() > deadline:
                raise DownloadFailed("download_failed.too_slow", field=one.field, seconds=DEADLINE_SECONDS)

        found = []
        for one in wanted:
            ask()
            path = self._file(one, in_use, ask)
            found.append(LoraFile(one.name, path, one.scale, one.expert))
        return tuple(found)

    def _file(self, wanted: WantedLora, in_use: InUse, ask: Callable[[], None]) -> Path:
        source = wanted.source
        if isinstance(source, LocalFile):
            return self._checked(_local(source.path, wanted.name), wanted)
        if isinstance(source, HubFile):
            revision, file = self._resolved(source, wanted, ask)
            url = hub_url(self._hub, source.repository, revision, file)
            token, key = self._token_of_hub(wanted), f"hub {source.repository} {revision} {file}"
        else:
            url, token, key = source.url, self._token_of(source), source.url
        digest = wanted.sha256 or hashlib.sha256(key.encode()).hexdigest()
        return self._cache.file(digest, lambda: self._pieces(url, wanted, token, ask), in_use, ask)

    def _checked(self, path: Path, wanted: WantedLora) -> Path:
        """Return a local file after checking its SHA-256, which is computed again only when the file changes.

        Raises:
            ModelUnavailable: the file is not the one that the operator chose.
        """
        if wanted.sha256 is not None:
            state = path.stat()
            key = path, state.st_size, state.st_mtime_ns
            if key not in self._digests:
                with path.open("rb") as file:
                    self._digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
            if self._digests[key] != wanted.sha256:
                raise ModelUnavailable("model_unavailable.lora_hash", name=wanted.name)
        return path

    def _pieces(
        self, url: str, wanted: WantedLora, token: tuple[str, str] | None, ask: Callable[[], None]
    ) -> Iterator[bytes]:
        """Yield the content of a download, checked as it arrives.

        Raises:
            InvalidInput: it does not begin as a .safetensors file does.
            ModelUnavailable: its SHA-256 is not the one that the operator chose.
        """
        start, begun, digest = b"", False, hashlib.sha256()
        with contextlib.closing(self._download(url, wanted.field, token, ask)) as pieces:
            for piece in pieces:
                digest.update(piece)
                if begun:
                    yield piece
                    continue
                start += piece
                if len(start) > 8:
                    _check_beginning(start, wanted.field)
                    begun = True
                    yield start
        if not begun:
            _check_beginning(start, wanted.field)
        if wanted.sha256 is not None and digest.hexdigest() != wanted.sha256:
            raise ModelUnavailable("model_unavailable.lora_hash", name=wanted.name)

    def _download(
        self,
        url: str,
        field: str,
        token: tuple[str, str] | None,
        ask: Callable[[], None],
        fetcher: Fetcher | None = None,
    ) -> Generator[bytes, None, None]:
        # `ask` enforces the deadline, which all LoRAs share.
        fetcher = dataclasses.replace(fetcher or self._fetcher, deadline_seconds=DEADLINE_SECONDS)
        try:
            yield from fetcher.pieces(url, field, ask, token=token)
        except DownloadFailed as error:
            status = error.params.get("status")
            if status in {401, 403}:
                raise DownloadFailed("download_failed.login", field=field, status=status, retryable=False) from None
            raise

    def _resolved(self, source: HubFile, wanted: WantedLora, ask: Callable[[], None]) -> tuple[str, str]:
        """Return the commit and the file of a source; asks the hub unless the source names both."""
        if source.file is not None and source.revision is not None and _COMMIT.fullmatch(source.revision):
            return source.revision, source.file
        # Keyed by `listed`: clients must not see what only the operator's token can read, not even file names.
        key = source.repository, source.revision, wanted.listed
        commit = self._commits.get(key)
        if commit is None or time.monotonic() - commit.found_at > RESOLVED_SECONDS:
            try:
                commit = self._ask_hub(source, wanted, ask)
                if len(self._commits) >= _MAX_COMMITS or self._characters() > _MAX_CHARACTERS:
                    self._commits.clear()
                self._commits[key] = commit
            except DownloadFailed as error:
                if commit is None or not error.retryable:
                    raise
        return commit.sha, _chosen(commit.files, source.file, wanted.field)

    def _characters(self) -> int:
        # Copied, because another job's thread may add a commit meanwhile.
        return sum(len(name) for commit in tuple(self._commits.values()) for name in commit.files)

    def _ask_hub(self, source: HubFile, wanted: WantedLora, ask: Callable[[], None]) -> _Commit:
        """Ask the hub for a repository's commit and files: https://huggingface.co/docs/hub/api, "Models".

        Raises:
            DownloadFailed: the repository is missing or not readable, or the hub did not answer.
        """
        field = wanted.field
        revision = f"/revision/{quote(source.revision, safe='')}" if source.revision else ""
        url = f"{self._hub}/api/models/{source.repository}{revision}"
        small = dataclasses.replace(self._fetcher, max_bytes=_MAX_LISTING_BYTES)
        try:
            answer = json.loads(b"".join(self._download(url, field, self._token_of_hub(wanted), ask, small)))
            sha, files = answer["sha"], tuple(one["rfilename"] for one in answer["siblings"])
        except DownloadFailed as error:
            status = error.params.get("status")
            if status in {401, 403, 404}:
                raise DownloadFailed(
                    "download_failed.hub_repository", field=field, status=status, retryable=False
                ) from None
            raise
        except (ValueError, KeyError, TypeError):
            raise DownloadFailed("download_failed.hub_answer", field=field) from None
        if not isinstance(sha, str) or not _COMMIT.fullmatch(sha) or not all(isinstance(one, str) for one in files):
            raise DownloadFailed("download_failed.hub_answer", field=field)
        return _Commit(sha, tuple(one for one in files if one.endswith(".safetensors")), time.monotonic())

    def _token_of_hub(self, wanted: WantedLora) -> tuple[str, str] | None:
        """The hub token, only for LoRAs that the operator lists: clients must not read with the operator's account."""
        host = urlsplit(self._hub).hostname or ""
        return (host, self._hub_token) if self._hub_token and wanted.listed else None

    def _token_of(self, source: WebFile) -> tuple[str, str] | None:
        return (source.host, self._civitai_token) if self._civitai_token and source.host in CIVITAI_HOSTS else None


def _local(path: Path, name: str) -> Path:
    """Return a local file, or the only one in a folder.

    Raises:
        ModelUnavailable: it does not exist, or the folder has several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelUnavailable("model_unavailable.lora_missing", name=name)
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise ModelUnavailable("model_unavailable.lora_files", name=name)
    return files[0]


def _chosen(files: Sequence[str], asked: str | None, field: str) -> str:
    """Choose the file of a repository.

    Raises:
        InvalidInput: there is none, or the choice is ambiguous.
    """
    listed = ", ".join(files[:_NAMED])
    if asked is not None and asked not in files:
        named = field.replace(".path", ".weight_name")
        raise InvalidInput([FieldProblem(named, "invalid_input.lora_no_file", choices=listed or "none")])
    if asked is not None:
        return asked
    if not files:
        raise InvalidInput([FieldProblem(field, "invalid_input.lora_no_files")])
    if len(files) > 1 and STANDARD_NAME not in files:
        raise InvalidInput([FieldProblem(field, "invalid_input.lora_several_files", choices=listed)])
    return STANDARD_NAME if STANDARD_NAME in files else files[0]


def _check_beginning(start: bytes, field: str) -> None:
    """Check for the start of a .safetensors file: eight bytes of header length, then the header's brace.

    Raises:
        InvalidInput: it is another kind of file, or its header is longer than a LoRA's.
    """
    length = int.from_bytes(start[:8], "little")
    if len(start) > 8 and start[8:9] == b"{" and length <= _MAX_HEADER_BYTES:
        if length > MAX_HEADER_BYTES:
            raise InvalidInput([FieldProblem(field, "invalid_input.lora_header", most=MAX_HEADER_BYTES, got=length)])
        return
    what = next((kind for form, kind in _BEGINNINGS if form.match(start)), text("invalid_input.lora_is_another"))
    raise InvalidInput([FieldProblem(field, "invalid_input.lora_bytes", what=what)])
