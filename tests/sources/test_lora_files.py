"""LoRAs are fetched from permitted places only, once, whole, and as safetensors; tokens stay where they belong."""

import hashlib
import ipaddress
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import SOON_SECONDS
from tests.support.https_server import HOST, HttpsServer, anywhere, loopback
from worker.api.loras import WantedLora
from worker.core.config import load_settings
from worker.core.errors import Cancelled, DiskFull, DownloadFailed, InvalidInput, JobError, ModelUnavailable, UrlBlocked
from worker.core.lora_source import HubFile, LocalFile, LoraSource, WebFile
from worker.core.types import LoraFile
from worker.sources import lora_cache, lora_files
from worker.sources.http import Fetcher
from worker.sources.lora_cache import InUse, LoraCache
from worker.sources.lora_files import LoraFiles

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MAX_BYTES = 1 << 20
Found = tuple[LoraFile, ...]


def safetensors(filling: bytes = b"x", size: int = 100) -> bytes:
    header = b'{"lora":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    return len(header).to_bytes(8, "little") + header + filling * size


pytestmark = pytest.mark.usefixtures("_forget")


class Shelf:
    """LoRA files of one worker, with the local server for the internet."""

    def __init__(self, server: HttpsServer, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.server, self.folder = server, folder
        ports = frozenset({443, server.port})
        fetcher = Fetcher(0, resolve=loopback, is_allowed=anywhere, ports=ports, tls=server.tls)
        monkeypatch.setattr("worker.sources.lora_files.CIVITAI_HOSTS", frozenset({HOST}))
        chosen = {"lora_cache_dir": folder, "max_lora_bytes": MAX_BYTES} | settings
        self.files = LoraFiles(load_settings(**chosen), fetcher, f"https://{HOST}:{server.port}")
        self.in_use = InUse()

    def url(self, path: str, host: str = HOST) -> WebFile:
        return WebFile(f"https://{host}:{self.server.port}{path}", host)

    def get(self, *sources: LoraSource, in_use: InUse | None = None, **about: Any) -> Found:
        wanted = [WantedLora(f"loras.{k}.path", f"lora {k}", source, 0.5, **about) for k, source in enumerate(sources)]
        return self.files.load(wanted, self.in_use if in_use is None else in_use)

    def repository(self, *files: str, sha: str = COMMIT) -> None:
        listing = {"sha": sha, "siblings": [{"rfilename": name} for name in (".gitattributes", *files)]}
        self.server.files["/api/models/org/name"] = json.dumps(listing).encode()
        for name in files:
            self.server.files[f"/org/name/resolve/{sha}/{name}"] = safetensors(name[:1].encode())

    @property
    def asked(self) -> list[str]:
        return [path for path, _ in self.server.requests]

    def authorization(self, path: str) -> list[str | None]:
        return [headers.get("Authorization") for asked, headers in self.server.requests if asked.startswith(path)]


@pytest.fixture
def shelf(server: HttpsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    return Shelf(server, tmp_path / "loras", monkeypatch)


# --- sources ---


def test_a_url_is_fetched_once_and_kept(shelf: Shelf, server: HttpsServer) -> None:
    server.files["/a.safetensors"] = safetensors()
    (first,) = shelf.get(shelf.url("/a.safetensors"))
    assert (first.name, first.scale, first.expert) == ("lora 0", 0.5, "both")
    assert first.path.read_bytes() == safetensors()
    assert shelf.get(shelf.url("/a.safetensors")) == (first,)
    assert shelf.asked == ["/a.safetensors"]
    assert server.requests[0][1]["Accept"] == "*/*"
    assert [path.suffix for path in shelf.folder.iterdir()] == [".safetensors"]


def test_another_worker_finds_it_there(shelf: Shelf, server: HttpsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/a.safetensors"] = safetensors()
    found = shelf.get(shelf.url("/a.safetensors"))
    assert Shelf(server, shelf.folder, monkeypatch).get(shelf.url("/a.safetensors")) == found
    assert len(shelf.asked) == 1


def test_the_only_file_of_a_repository_is_found_and_kept_by_its_commit(shelf: Shelf) -> None:
    shelf.repository("anything.safetensors", "picture.png")
    (first,) = shelf.get(HubFile("org/name"))
    assert first.path.read_bytes() == safetensors(b"a")
    shelf.get(HubFile("org/name"))
    assert shelf.asked == ["/api/models/org/name", f"/org/name/resolve/{COMMIT}/anything.safetensors"]


def test_a_branch_that_moved_is_another_file_later(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.repository("a.safetensors")
    (first,) = shelf.get(HubFile("org/name"))
    shelf.repository("a.safetensors", sha="f" * 40)
    assert shelf.get(HubFile("org/name")) == (first,)
    monkeypatch.setattr(lora_files, "RESOLVED_SECONDS", -1.0)
    (second,) = shelf.get(HubFile("org/name"))
    assert second.path != first.path


def test_a_hub_that_is_away_costs_nothing_that_was_found_before(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.repository("a.safetensors")
    found = shelf.get(HubFile("org/name"))
    monkeypatch.setattr(lora_files, "RESOLVED_SECONDS", -1.0)
    shelf.server.files["/api/models/org/name"] = b"out of order"
    assert shelf.get(HubFile("org/name")) == found


@pytest.mark.parametrize(("bound", "most"), [("_MAX_COMMITS", 1), ("_MAX_CHARACTERS", 12)])
def test_only_so_many_answers_of_the_hub_are_kept(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(lora_files, bound, most)
    shelf.repository("a.safetensors")
    shelf.server.files["/api/models/org/name/revision/dev"] = shelf.server.files["/api/models/org/name"]
    for source in (HubFile("org/name"), HubFile("org/name", "dev"), HubFile("org/name")):
        shelf.get(source)
    assert sum(path == "/api/models/org/name" for path in shelf.asked) == 2


def test_jobs_that_ask_the_hub_at_the_same_time_do_not_disturb_each_other(shelf: Shelf) -> None:
    """What is kept of its answers is counted while another job adds one."""
    shelf.repository("a.safetensors")
    listing = json.loads(shelf.server.files["/api/models/org/name"])
    listing["siblings"] += [{"rfilename": f"{number}.safetensors"} for number in range(20_000)]
    revisions = [f"r{number}" for number in range(24)]
    for revision in revisions:
        shelf.server.files[f"/api/models/org/name/revision/{revision}"] = json.dumps(listing).encode()
    with ThreadPoolExecutor(8) as jobs:
        found = list(jobs.map(lambda revision: shelf.get(HubFile("org/name", revision, "a.safetensors")), revisions))
    assert {one.path for (one,) in found} == {found[0][0].path}


def test_a_commit_and_a_file_need_no_question(shelf: Shelf) -> None:
    shelf.server.files[f"/org/name/resolve/{COMMIT}/a%20b.safetensors"] = safetensors()
    shelf.get(HubFile("org/name", COMMIT, "a b.safetensors"))
    assert shelf.asked == [f"/org/name/resolve/{COMMIT}/a%20b.safetensors"]


def test_of_several_files_the_standard_name_or_the_one_that_is_named(shelf: Shelf) -> None:
    shelf.repository("x.safetensors", lora_files.STANDARD_NAME)
    (standard,) = shelf.get(HubFile("org/name"))
    (named,) = shelf.get(HubFile("org/name", None, "x.safetensors"))
    assert (standard.path.read_bytes(), named.path.read_bytes()) == (safetensors(b"p"), safetensors(b"x"))


@pytest.mark.parametrize(
    ("files", "asked", "said"),
    [
        (("x.safetensors", "y.safetensors"), None, "loras.0.path: has several .safetensors files; say which one"),
        (("x.ckpt",), None, "loras.0.path: is a repository without a .safetensors file"),
        (
            ("x.safetensors",),
            "y.safetensors",
            "loras.0.weight_name: has no .safetensors file of that name; there are x",
        ),
    ],
)
def test_a_repository_where_it_is_not_clear_which(
    shelf: Shelf, files: tuple[str, ...], asked: str | None, said: str
) -> None:
    shelf.repository(*files)
    with pytest.raises(InvalidInput, match=said):
        shelf.get(HubFile("org/name", None, asked))
    assert len(shelf.asked) == 1


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (b"<html>", DownloadFailed, "the hub's answer could not be read"),
        (b"[]", DownloadFailed, "the hub's answer could not be read"),
        (b'{"sha": "../..", "siblings": []}', DownloadFailed, "the hub's answer could not be read"),
        (b'{"sha": "' + COMMIT.encode() + b'", "siblings": [{"rfilename": 5}]}', DownloadFailed, "could not be read"),
        (b" " * (5 << 20), DownloadFailed, "is larger than"),
    ],
)
def test_an_answer_of_the_hub_that_means_nothing(shelf: Shelf, answer: bytes, error: type[JobError], said: str) -> None:
    shelf.server.files["/api/models/org/name"] = answer
    with pytest.raises(error, match=said):
        shelf.get(HubFile("org/name"))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_repository_that_nobody_may_read(shelf: Shelf, status: int) -> None:
    shelf.files._hub = f"https://{HOST}:{shelf.server.port}/status"
    with pytest.raises(DownloadFailed, match=f"no such repository or revision that anybody may read .status {status}"):
        shelf.get(HubFile(f"org/{status}"))


def test_files_of_this_machine(shelf: Shelf, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    with pytest.raises(ModelUnavailable, match="the folder of the LoRA lora 0 must hold one"):
        shelf.get(LocalFile(folder))
    file = folder / "a.safetensors"
    file.write_bytes(safetensors())
    assert [one.path for one in shelf.get(LocalFile(folder), LocalFile(file))] == [file, file]
    with pytest.raises(ModelUnavailable) as caught:
        shelf.get(LocalFile(folder / "b.safetensors"))
    assert caught.value.message == "the file of the LoRA lora 0 is not on this worker"


# --- refusals ---


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html>sign in</html>", "an HTML page (often one that asks for a login"),
        (b'{"error": "Unauthorized"}', "a server's answer in JSON"),
        (b"\x80\x02}q\x00(X\x05", "a pickled file, which can run code"),
        (b"PK\x03\x04" + bytes(100), "an archive or a pickled file"),
        (b"GGUF" + bytes(100), "a file in the GGUF format"),
        (b"", "nothing"),
        (bytes(100), "bytes of another kind"),
        (b"\xff" * 8 + b"{" + bytes(100), "bytes of another kind"),
        (safetensors()[:8], "bytes of another kind"),
    ],
)
def test_what_is_no_safetensors_file_is_said_and_not_kept(shelf: Shelf, content: bytes, what: str) -> None:
    shelf.server.files["/a"] = content
    with pytest.raises(InvalidInput) as caught:
        shelf.get(shelf.url("/a"))
    assert caught.value.message.startswith(f"loras.0.path: gives {what}")
    assert list(shelf.folder.iterdir()) == []


def test_a_header_as_long_as_the_format_allows_is_refused_before_it_has_arrived(shelf: Shelf) -> None:
    shelf.server.files["/a"] = (90_000_000).to_bytes(8, "little") + b"{" + bytes(1000)
    with pytest.raises(InvalidInput, match="has a header of 90000000 bytes; a LoRA's may have 10000000"):
        shelf.get(shelf.url("/a"))
    assert list(shelf.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("/status/404", DownloadFailed, "answered with status 404"),
        ("/status/401", DownloadFailed, "gives the file only to who is signed in"),
        ("/liar", DownloadFailed, "could not be reached or broke off"),
        ("/huge-length", DownloadFailed, f"is larger than the {MAX_BYTES} bytes"),
        ("/large", DownloadFailed, f"is larger than the {MAX_BYTES} bytes"),
        ("/hops/9", DownloadFailed, "redirects more than"),
        ("/to?http://files.example.com/a", UrlBlocked, "must be an https:// URL"),
        ("/to?https://127.0.0.1:22/a", UrlBlocked, "must be an https:// URL on the standard port"),
    ],
)
def test_a_server_that_misbehaves_leaves_nothing(shelf: Shelf, path: str, error: type[JobError], said: str) -> None:
    shelf.server.files["/liar"] = safetensors()
    shelf.server.files["/large"] = safetensors(size=MAX_BYTES)
    with pytest.raises(error, match=said) as caught:
        shelf.get(shelf.url(path))
    assert caught.value.message.startswith("loras.0.path: ")
    assert HOST not in caught.value.message
    assert list(shelf.folder.iterdir()) == []


def test_every_hop_is_checked_to_be_public(
    server: HttpsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(server, tmp_path, monkeypatch)
    here = ipaddress.ip_address("127.0.0.1")

    def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if host == HOST else ["169.254.169.254"]

    shelf.files._fetcher = Fetcher(
        MAX_BYTES, resolve=resolve, is_allowed=lambda one: one == here, ports=frozenset({server.port}), tls=server.tls
    )
    with pytest.raises(UrlBlocked, match="leads to an address that is not public"):
        shelf.get(shelf.url(f"/to?https://metadata.example:{server.port}/a"))


def test_the_file_is_the_one_that_the_operator_chose(shelf: Shelf) -> None:
    shelf.server.files["/a"] = safetensors()
    digest = hashlib.sha256(safetensors()).hexdigest()
    with pytest.raises(ModelUnavailable, match="the file of the LoRA lora 0 is not the one whose sha256"):
        shelf.get(shelf.url("/a"), sha256="0" * 64)
    assert list(shelf.folder.iterdir()) == []
    (found,) = shelf.get(shelf.url("/a"), sha256=digest)
    assert found.path.stem == digest


def test_so_it_is_with_a_file_of_this_machine(shelf: Shelf, tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    file.write_bytes(safetensors())
    digest = hashlib.sha256(safetensors()).hexdigest()
    assert [one.path for one in shelf.get(LocalFile(file), sha256=digest)] == [file]
    file.write_bytes(safetensors(b"y", 101))
    with pytest.raises(ModelUnavailable, match="the file of the LoRA lora 0 is not the one whose sha256"):
        shelf.get(LocalFile(file), sha256=digest)


# --- the operator's tokens ---


def test_a_token_goes_to_its_host_and_to_no_other(
    server: HttpsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(server, tmp_path, monkeypatch, civitai_token="civitai-key", hf_token="hub-key")
    server.files |= {"/file": safetensors(), "/file?again": safetensors()}
    shelf.get(shelf.url(f"/to?https://127.0.0.9:{server.port}/file"))
    assert shelf.authorization("/to") == ["Bearer civitai-key"]
    assert shelf.authorization("/file") == [None]
    server.requests.clear()
    shelf.get(shelf.url("/to?/file?again"))
    assert shelf.authorization("/file") == ["Bearer civitai-key"]
    server.requests.clear()
    shelf.get(WebFile(f"https://127.0.0.9:{server.port}/file", "127.0.0.9"))
    assert shelf.authorization("/file") == [None]


def test_the_hubs_token_is_for_what_the_operator_listed(
    server: HttpsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(server, tmp_path, monkeypatch, hf_token="hub-key")
    shelf.repository("a.safetensors", "b.safetensors")
    shelf.get(HubFile("org/name", None, "a.safetensors"), listed=False)
    assert {headers.get("Authorization") for _, headers in server.requests} == {None}
    server.requests.clear()
    shelf.get(HubFile("org/name", None, "b.safetensors"), listed=True)
    assert {headers.get("Authorization") for _, headers in server.requests} == {"Bearer hub-key"}
    server.requests.clear()
    # The commit found with the operator's token is not reused without it.
    shelf.files._commits.pop(("org/name", None, False))
    shelf.get(HubFile("org/name", None, "a.safetensors"), listed=False)
    assert [headers.get("Authorization") for _, headers in server.requests] == [None]
    assert "hub-key" not in repr(load_settings(hf_token="hub-key"))


# --- time ---


def test_a_job_that_is_stopped_ends_its_download(shelf: Shelf) -> None:
    began = time.monotonic()

    def raise_if_stopped() -> None:
        if time.monotonic() - began > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        shelf.files.load([WantedLora("loras.0.path", "a", shelf.url("/drip"), 1.0)], InUse(), raise_if_stopped)
    assert time.monotonic() - began < SOON_SECONDS
    assert list(shelf.folder.iterdir()) == []


def test_all_loras_of_a_job_share_one_deadline(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_files, "DEADLINE_SECONDS", 0.6)
    shelf.server.files["/a"] = safetensors()
    began = time.monotonic()
    with pytest.raises(DownloadFailed, match=r"loras.1.path: could not be downloaded within 0.6 seconds"):
        shelf.get(shelf.url("/a"), shelf.url("/drip"), shelf.url("/drip?again"))
    assert time.monotonic() - began < SOON_SECONDS


def test_two_jobs_that_want_the_same_fetch_it_once(shelf: Shelf) -> None:
    shelf.server.files["/a"] = safetensors(size=MAX_BYTES // 2)
    found: list[Found] = []
    threads = [
        threading.Thread(target=lambda: found.append(shelf.get(shelf.url("/a"), in_use=InUse()))) for _ in "1234"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert shelf.asked == ["/a"]


# --- the cache ---


def keep(cache: LoraCache, key: str, size: int, in_use: InUse | None = None) -> Path:
    return cache.file(key, lambda: [bytes(size)], InUse() if in_use is None else in_use, lambda: None)


def aged(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = LoraCache(tmp_path, 100)
    for key, age in (("a", 30.0), ("b", 20.0), ("c", 10.0)):
        aged(keep(cache, key, 30), age)
    keep(cache, "a", 30)  # is used again
    keep(cache, "d", 30)
    assert {path.stem for path in tmp_path.iterdir()} == {"a", "c", "d"}


def test_a_file_that_is_used_again_stays_the_file_that_it_was(tmp_path: Path) -> None:
    cache = LoraCache(tmp_path, 100)
    path = keep(cache, "a", 30)
    aged(path, 500.0)
    written = path.stat().st_mtime_ns
    keep(cache, "a", 30)
    assert path.stat().st_mtime_ns == written
    assert time.time() - path.stat().st_atime < 100


def test_what_a_job_uses_stays_until_the_job_is_gone(tmp_path: Path) -> None:
    cache, job = LoraCache(tmp_path, 100), InUse()
    first = keep(cache, "a", 60, job)
    aged(first, 1000.0)
    with pytest.raises(DiskFull):
        keep(cache, "b", 60)
    assert {path.stem for path in tmp_path.iterdir()} == {"a"}
    del job
    keep(cache, "b", 60)
    assert {path.stem for path in tmp_path.iterdir()} == {"b"}


def test_room_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = LoraCache(tmp_path, 1000)
    aged(keep(cache, "a", 10), 100.0)
    monkeypatch.setattr(lora_cache, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(DiskFull):
        keep(cache, "b", 10)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_workers_left_is_swept_and_what_others_write_is_not(tmp_path: Path) -> None:
    dead, alive, other = tmp_path / ".a.1.partial", tmp_path / ".b.2.partial", tmp_path / "notes.txt"
    for path in (dead, alive, other):
        path.write_bytes(bytes(10))
    aged(dead, lora_cache.PARTIAL_SECONDS + 1)
    aged(other, 10**6)
    keep(LoraCache(tmp_path, 100), "c", 10)
    assert not dead.exists()
    assert alive.exists()
    assert other.exists()


def test_a_download_that_ended_early_leaves_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    cache = LoraCache(tmp_path, 100)

    def breaks() -> Iterator[bytes]:
        yield bytes(10)
        raise DownloadFailed

    with pytest.raises(DownloadFailed):
        cache.file("a", breaks, InUse(), lambda: None)
    assert list(tmp_path.iterdir()) == []
    assert keep(cache, "a", 10).stat().st_size == 10


def test_where_there_is_no_volume_they_are_kept_among_the_temporary_files(tmp_path: Path) -> None:
    assert lora_cache.cache_folder(tmp_path / "loras") == tmp_path / "loras"
    elsewhere = lora_cache.cache_folder(tmp_path / "no volume" / "loras")
    assert elsewhere.name == f"loras-{os.getuid()}"
    assert not elsewhere.is_relative_to(tmp_path / "no volume")
