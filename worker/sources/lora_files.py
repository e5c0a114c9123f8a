"""LoRAs that a request names -> their files on this machine, downloaded where they are not here yet.

Knows the hub's addresses, whose token goes where, and how a .safetensors file begins. Does not know what is in one: the
engine reads it. The operator's tokens are sent to their own hosts alone.
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
from worker.core.lora_source import CIVITAI_HOSTS, HUB_HOST, HubFile, LocalFile, WebFile, hub_url
from worker.core.messages import text
from worker.core.types import LoraFile
from worker.sources.http import Fetcher
from worker.sources.lora_cache import InUse, LoraCache, cache_folder

DEADLINE_SECONDS = 300.0
"""For all LoRAs of a job together: 1 GiB at 4 MB/s, and well within a job's own limit."""
RESOLVED_SECONDS = 600.0
"""How long the hub's answer stands that a branch is at a commit; where the hub is away, longer."""
_MAX_COMMITS = 256
"""As many of the hub's answers are kept: one may name thousands of files."""
STANDARD_NAME = "pytorch_lora_weights.safetensors"
"""What diffusers and PEFT call the file of a LoRA; of several it is the one that is meant."""
_MAX_LISTING_BYTES = 4 << 20
_MAX_HEADER_BYTES = 100_000_000
"""Of a .safetensors file: https://github.com/huggingface/safetensors#format, "Attacks"."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAMED = 12
"""As many files of a repository as a message names."""
_BEGINNINGS = (
    (re.compile(rb"\s*(?:<!doctype|<html|<\?xml|<head)", re.IGNORECASE), text("invalid_input.lora_is_html")),
    (re.compile(rb"\s*[{\[]"), text("invalid_input.lora_is_json")),
    (re.compile(rb"PK\x03\x04"), text("invalid_input.lora_is_archive")),
    (re.compile(rb"\x80[\x02-\x05]"), text("invalid_input.lora_is_pickle")),
    (re.compile(rb"GGUF"), text("invalid_input.lora_is_gguf")),
    (re.compile(rb"\Z"), text("invalid_input.lora_is_empty")),
)
"""How what is no .safetensors file begins, and what it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Commit:
    """A revision of a repository as it was found."""

    sha: str
    files: tuple[str, ...]
    found_at: float


class LoraFiles:
    """Fetches LoRAs and keeps them. Blocking: call it in a thread. The fetcher and the hub's address are for tests."""

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
        """The files, in the order of `wanted`.

        Args:
            wanted: what `wanted_loras` allowed.
            in_use: the files stay as long as this lives.
            raise_if_stopped: asked during downloads and waits; what it raises is passed on.

        Raises:
            UrlBlocked, DownloadFailed, InvalidInput: naming the field.
            ModelUnavailable: what the operator named is not there, or is another file.
            DiskFull: there is no room for one.
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
        """A file of this machine, which is the one that the operator chose; it is read once for each time it changes.

        Raises:
            ModelUnavailable: it is another one.
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
        """The content, looked at as it arrives.

        Raises:
            InvalidInput: it does not begin as a .safetensors file does.
            ModelUnavailable: it is not the file that the operator chose.
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
        # The deadline is that of all LoRAs together: `ask` keeps it.
        fetcher = dataclasses.replace(fetcher or self._fetcher, deadline_seconds=DEADLINE_SECONDS)
        try:
            yield from fetcher.pieces(url, field, ask, token=token)
        except DownloadFailed as error:
            status = error.params.get("status")
            if status in {401, 403}:
                raise DownloadFailed("download_failed.login", field=field, status=status, retryable=False) from None
            raise

    def _resolved(self, source: HubFile, wanted: WantedLora, ask: Callable[[], None]) -> tuple[str, str]:
        """The commit and the file that a source stands for; who names both is asked nothing."""
        if source.file is not None and source.revision is not None and _COMMIT.fullmatch(source.revision):
            return source.revision, source.file
        # What the operator's token may read is nobody else's to see, not even its files' names.
        key = source.repository, source.revision, wanted.listed
        commit = self._commits.get(key)
        if commit is None or time.monotonic() - commit.found_at > RESOLVED_SECONDS:
            try:
                commit = self._ask_hub(source, wanted, ask)
                if len(self._commits) >= _MAX_COMMITS:
                    self._commits.clear()
                self._commits[key] = commit
            except DownloadFailed as error:
                if commit is None or not error.retryable:
                    raise
        return commit.sha, _chosen(commit.files, source.file, wanted.field)

    def _ask_hub(self, source: HubFile, wanted: WantedLora, ask: Callable[[], None]) -> _Commit:
        """What the hub says of a repository: https://huggingface.co/docs/hub/api, "Models".

        Raises:
            DownloadFailed: it has none such that may be read, or gave no answer.
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
        """For what the operator chose alone: else clients would read whatever the operator's account may."""
        host = urlsplit(self._hub).hostname or ""
        return (host, self._hub_token) if self._hub_token and wanted.listed else None

    def _token_of(self, source: WebFile) -> tuple[str, str] | None:
        return (source.host, self._civitai_token) if self._civitai_token and source.host in CIVITAI_HOSTS else None


def _local(path: Path, name: str) -> Path:
    """A file of this machine, or the only one in a folder.

    Raises:
        ModelUnavailable: it is not there.
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
    """The one file of a repository that is meant.

    Raises:
        InvalidInput: there is none, or it is not clear which.
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
    """A .safetensors file begins with the length of its header, eight bytes, and the header's brace.

    Raises:
        InvalidInput: this is another kind of file.
    """
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_HEADER_BYTES:
        return
    what = next((kind for form, kind in _BEGINNINGS if form.match(start)), text("invalid_input.lora_is_another"))
    raise InvalidInput([FieldProblem(field, "invalid_input.lora_bytes", what=what)])
