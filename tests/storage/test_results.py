"""Objects and their URLs: where they lie, what token they carry, and whose upload counts."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest

from tests.support.fakes import MemoryBucket, fails_times, is_down
from worker.core.errors import BackendError, DownloadFailed, StorageUnavailable, Superseded
from worker.core.types import Owner
from worker.media.artifact import Artifact
from worker.storage.results import TOKENS, NameTaken, ObjectOwner, Storage, object_path

PATH = "generating/user/image/file.png"
OWNER = Owner("user", "file")


def file(data: bytes = b"pixels", content_type: str = "image/png", seed: int = 7) -> Artifact:
    return replace(Artifact.encoded(data, content_type, 64, 64), seed=seed)


def provenance(attempt: int = 1, job: str = "job-1", request: str = "hash") -> ObjectOwner:
    return ObjectOwner(job, attempt, request, claimed_at=f"2026-01-01T00:00:0{attempt}.000000Z", manifest='{"a": 1}')


def soon() -> float:
    return time.monotonic() + 5


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def storage(bucket: MemoryBucket) -> Storage:
    return Storage(bucket)


@pytest.mark.parametrize(
    ("video", "suffix", "index", "count", "path"),
    [
        (False, ".png", 0, 1, "generating/user/image/file.png"),
        (False, ".png", 0, 2, "generating/user/image/file_0.png"),
        (False, ".png", 3, 4, "generating/user/image/file_3.png"),
        (False, ".jpg", 0, 1, "generating/user/image/file.jpg"),
        (False, ".webp", 1, 2, "generating/user/image/file_1.webp"),
        (True, ".mp4", 0, 1, "generating/user/video/file.mp4"),
    ],
)
def test_the_path_is_the_contracts(video: bool, suffix: str, index: int, count: int, path: str) -> None:
    assert object_path(OWNER, video=video, suffix=suffix, index=index, count=count) == path


def test_an_object_has_our_content_type_its_token_and_where_it_comes_from(
    bucket: MemoryBucket, storage: Storage
) -> None:
    stored = storage.put(PATH, file(), provenance(), soon())
    data, info, content_type = bucket.objects[PATH]
    assert (data, content_type, stored.generation) == (b"pixels", "image/png", info.generation)
    expected = {
        TOKENS: stored.url.split("token=")[1],
        "job_id": "job-1",
        "attempt": "1",
        "request_hash": "hash",
        "seed": "7",
        "manifest": '{"a": 1}',
    }
    assert expected.items() <= info.metadata.items()
    assert all(isinstance(value, str) for value in info.metadata.values())


def test_the_url_is_firebases_with_the_path_in_one_piece(storage: Storage) -> None:
    url = storage.url("generating/u-1/image/f_1 ä.png", "t-1")
    host = "https://firebasestorage.googleapis.com/v0/b/demo-bucket/o/"
    assert url == f"{host}generating%2Fu-1%2Fimage%2Ff_1%20%C3%A4.png?alt=media&token=t-1"
    assert unquote(url.removeprefix(host).split("?")[0]) == "generating/u-1/image/f_1 ä.png"


def test_the_emulator_takes_firebases_place_in_the_url(bucket: MemoryBucket) -> None:
    url = Storage(bucket, "http://127.0.0.1:9199").url(PATH, "t")
    assert url == "http://127.0.0.1:9199/v0/b/demo-bucket/o/generating%2Fuser%2Fimage%2Ffile.png?alt=media&token=t"


def test_every_object_has_a_token_of_its_own(storage: Storage) -> None:
    urls = {storage.put(f"generating/user/image/f{k}.png", file(), provenance(), soon()).url for k in range(8)}
    assert len({url.split("token=")[1] for url in urls}) == 8


@pytest.mark.parametrize("attempt", [1, 2])
def test_an_identical_object_is_adopted_and_not_uploaded_again(
    bucket: MemoryBucket, storage: Storage, attempt: int
) -> None:
    first = storage.put(PATH, file(), provenance(), soon())
    again = storage.put(PATH, file(), provenance(attempt), soon())
    assert (again.path, again.url, again.generation) == (first.path, first.url, first.generation)
    assert bucket.uploads == 1
    assert bucket.objects[PATH][1].metadata["attempt"] == str(attempt)
    storage.remove([first])
    assert PATH in bucket.objects, "who made it cannot take it back any more"
    storage.remove([again])
    assert PATH not in bucket.objects


def test_the_same_generation_uploaded_again_keeps_its_token(bucket: MemoryBucket, storage: Storage) -> None:
    first = storage.put(PATH, file(b"one"), provenance(), soon())
    again = storage.put(PATH, file(b"two"), provenance(2), soon())
    assert again.url == first.url
    assert bucket.objects[PATH][0] == b"two"
    assert again.generation > first.generation


def test_another_request_gets_another_token(bucket: MemoryBucket, storage: Storage) -> None:
    first = storage.put(PATH, file(), provenance(), soon())
    other = storage.put(PATH, file(), provenance(1, "job-2", "other"), soon())
    assert other.url != first.url
    assert bucket.objects[PATH][1].metadata[TOKENS] in other.url


def test_the_first_of_several_tokens_goes_on(bucket: MemoryBucket, storage: Storage) -> None:
    storage.put(PATH, file(), provenance(), soon())
    data, info, content_type = bucket.objects[PATH]
    info.metadata[TOKENS] = "shared-1,shared-2"  # type: ignore[index]  # as somebody in the console would
    assert storage.put(PATH, file(b"two"), provenance(2), soon()).url.endswith("token=shared-1")
    assert (data, content_type) == (b"pixels", "image/png")


def test_an_upload_whose_answer_was_lost_is_found_and_adopted(bucket: MemoryBucket, storage: Storage) -> None:
    """The bucket retries by itself; its second attempt meets the first one's object."""
    lost = MemoryBucket.upload

    def upload(self: MemoryBucket, path: str, data: bytes, **options: object) -> object:
        lost(self, path, data, **options)  # type: ignore[arg-type]  # passed on as they came
        return lost(self, path, data, **options)  # type: ignore[arg-type]  # passed on as they came

    bucket.upload = upload.__get__(bucket)  # type: ignore[method-assign]  # this bucket only
    stored = storage.put(PATH, file(), provenance(), soon())
    assert bucket.uploads == 1
    assert bucket.objects[PATH][1].metadata[TOKENS] in stored.url


@pytest.mark.parametrize("job", ["job-1", "job-2"])
def test_an_older_attempt_does_not_overwrite_a_newer_one(bucket: MemoryBucket, storage: Storage, job: str) -> None:
    storage.put(PATH, file(b"new"), provenance(2, job, "other"), soon())
    with pytest.raises(Superseded):
        storage.put(PATH, file(b"old"), provenance(1), soon())
    assert bucket.objects[PATH][0] == b"new"


def test_an_object_that_lost_its_token_is_stored_anew_with_one(bucket: MemoryBucket, storage: Storage) -> None:
    storage.put(PATH, file(), provenance(), soon())
    bucket.objects[PATH][1].metadata[TOKENS] = ""  # type: ignore[index]  # revoked, as somebody in the console would
    again = storage.put(PATH, file(), provenance(2), soon())
    assert again.url.split("token=")[1]
    assert bucket.objects[PATH][1].metadata[TOKENS] in again.url


def test_who_never_gets_a_turn_gives_up(bucket: MemoryBucket, storage: Storage) -> None:
    """Somebody else writes the object each time, between the read and the upload."""

    def faster(call: str, path: str) -> None:
        if call == "upload":
            bucket.objects[path] = (b"x", replace(bucket.objects[path][1], generation=next(generations)), "image/png")

    generations = iter(range(10**6, 2 * 10**6))
    storage.put(PATH, file(b"theirs"), provenance(), soon())
    bucket.before = faster
    with pytest.raises(BackendError, match="unreachable"):
        storage.put(PATH, file(b"mine"), provenance(2), soon())
    assert bucket.objects[PATH][0] == b"x"


@pytest.mark.parametrize("request_hash", ["hash", "other"])
def test_without_a_claim_nothing_that_is_there_is_replaced(
    bucket: MemoryBucket, storage: Storage, request_hash: str
) -> None:
    """Firestore was down: the existing object may be the result of a job that did claim its document."""
    theirs = storage.put(PATH, file(b"theirs"), provenance(1, "job-2", request_hash), soon())
    unclaimed = replace(provenance(2), claimed=False)
    with pytest.raises(BackendError, match="refused"):
        storage.put(PATH, file(b"mine"), unclaimed, soon())
    assert bucket.objects[PATH][1].generation == theirs.generation


def test_without_a_claim_what_is_there_and_identical_is_used_and_known_as_found(
    bucket: MemoryBucket, storage: Storage
) -> None:
    theirs = storage.put(PATH, file(), provenance(1, "job-2"), soon())
    mine = storage.put(PATH, file(), replace(provenance(2), claimed=False), soon())
    assert (mine.url, mine.found, theirs.found) == (theirs.url, True, False)


def test_one_object_that_cannot_be_removed_does_not_keep_the_others(bucket: MemoryBucket, storage: Storage) -> None:
    paths = [f"generating/user/image/file_{k}.png" for k in range(3)]
    stored = [storage.put(path, file(), provenance(), soon()) for path in paths]
    bucket.before = fails_times(1, is_down("storage"))
    with pytest.raises(BackendError):
        storage.remove(stored)
    assert list(bucket.objects) == paths[:1]


def test_an_object_of_another_generation_is_neither_replaced_nor_taken_over_nor_recalled(
    bucket: MemoryBucket, storage: Storage
) -> None:
    theirs = replace(provenance(), file_uid="a_0")
    storage.put(PATH, file(b"theirs"), theirs, soon())
    for attempt in (1, 2):
        for data in (b"theirs", b"ours"):
            with pytest.raises(NameTaken):
                storage.put(PATH, file(data), replace(provenance(attempt), file_uid="a"), soon())
    assert storage.recall([PATH], "a", "hash", soon()) is None
    assert storage.recall([PATH], "a_0", "hash", soon()) is not None
    assert bucket.objects[PATH][0] == b"theirs"


def test_an_object_of_unknown_origin_is_replaced(bucket: MemoryBucket, storage: Storage) -> None:
    bucket.upload(PATH, b"theirs", content_type="image/png", metadata={}, replaces=0, deadline=soon())
    storage.put(PATH, file(b"new"), provenance(1), soon())
    assert bucket.objects[PATH][0] == b"new"


def test_a_finished_generation_is_recalled_only_whole_and_for_its_own_request(
    bucket: MemoryBucket, storage: Storage
) -> None:
    paths = [PATH, "generating/user/image/file_1.png"]
    first = storage.put(PATH, file(), provenance(), soon())
    assert storage.recall(paths, "", "hash", soon()) is None
    second = storage.put(paths[1], file(b"two", seed=8), provenance(), soon())
    found = storage.recall(paths, "", "hash", soon())
    assert found is not None
    assert [stored for stored, _ in found] == [first, second]
    assert [info.metadata["seed"] for _, info in found] == ["7", "8"]
    assert storage.recall(paths, "", "other", soon()) is None


@pytest.mark.parametrize("kind", ["unreachable", "refused"])
def test_a_bucket_that_fails_is_told(bucket: MemoryBucket, storage: Storage, kind: str) -> None:
    bucket.before = is_down("storage", kind)
    with pytest.raises(BackendError, match=kind):
        storage.put(PATH, file(), provenance(), soon())


def test_removing_takes_exactly_what_was_stored(bucket: MemoryBucket, storage: Storage) -> None:
    mine = storage.put(PATH, file(b"mine"), provenance(), soon())
    theirs = storage.put(PATH, file(b"theirs"), provenance(1, "job-2", "other"), soon())
    storage.remove([mine])
    assert bucket.objects[PATH][0] == b"theirs"
    storage.remove([theirs])
    assert PATH not in bucket.objects
    storage.remove([theirs])


def _empty(bucket: MemoryBucket) -> None:
    bucket.objects.clear()


def _down(bucket: MemoryBucket) -> None:
    bucket.before = fails_times(1, is_down("storage"))


@pytest.mark.parametrize(
    ("spoil", "limit", "error", "retryable"),
    [
        pytest.param(_empty, 100, DownloadFailed, False, id="absent"),
        pytest.param(lambda _: None, 5, DownloadFailed, False, id="too large"),
        pytest.param(_down, 100, StorageUnavailable, True, id="bucket down"),
    ],
)
def test_a_source_that_cannot_be_read_says_why_and_not_where(
    bucket: MemoryBucket,
    storage: Storage,
    spoil: Callable[[MemoryBucket], None],
    limit: int,
    error: type[DownloadFailed | StorageUnavailable],
    retryable: bool,
) -> None:
    storage.put("uploads/user/a.png", file(), provenance(), soon())
    spoil(bucket)
    with pytest.raises(error) as caught:
        storage.read_object("uploads/user/a.png", limit)
    assert caught.value.retryable is retryable
    for private in ("uploads", "demo-bucket", "a.png"):
        assert private not in str(caught.value)


def test_a_source_is_read_whole_with_whose_result_it_is(bucket: MemoryBucket, storage: Storage) -> None:
    bucket.upload("uploads/user/a.png", b"photo", content_type="image/png", metadata={}, replaces=0, deadline=soon())
    storage.put(PATH, file(), replace(provenance(), file_uid="file"), soon())
    assert storage.read_object("uploads/user/a.png", 6) == (b"photo", None)
    assert storage.read_object(PATH, 6) == (b"pixels", "file")


def test_what_is_kept_for_some_days_says_when_it_goes_and_is_put_off_by_who_takes_it_over(bucket: MemoryBucket) -> None:
    def days_left() -> float:
        at = bucket.objects[PATH][1].delete_at
        assert at is not None
        return (at - datetime.now(UTC)) / timedelta(days=1)

    Storage(bucket, retention=timedelta(days=7)).put(PATH, file(), provenance(), soon())
    assert days_left() == pytest.approx(7, abs=0.01)
    Storage(bucket, retention=timedelta(days=30)).put(PATH, file(), provenance(2), soon())
    assert days_left() == pytest.approx(30, abs=0.01)
    Storage(bucket, retention=timedelta(days=1)).put(PATH, file(), provenance(3), soon())
    assert days_left() == pytest.approx(30, abs=0.01), "Cloud Storage takes no earlier time"
    Storage(bucket).put(PATH, file(b"another"), provenance(4), soon())
    assert bucket.objects[PATH][1].delete_at is None


def test_what_is_kept_for_ever_says_nothing_of_it(bucket: MemoryBucket, storage: Storage) -> None:
    storage.put(PATH, file(), provenance(), soon())
    assert bucket.objects[PATH][1].delete_at is None
