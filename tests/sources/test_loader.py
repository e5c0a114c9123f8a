"""A request's pictures come from permitted places only, and every refusal names the field."""

import base64
import gc
import io
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from tests.support.hostile_pictures import saved
from tests.support.https_server import HOST, HttpsServer
from worker.api.request import Request, parse
from worker.core import timing
from worker.core.config import Settings
from worker.core.errors import (
    Cancelled,
    Deleted,
    DownloadFailed,
    Forbidden,
    InvalidImage,
    InvalidInput,
    JobError,
    StorageUnavailable,
    UrlBlocked,
)
from worker.media import decode, sandbox
from worker.sources.http import Fetcher
from worker.sources.loader import LISTED_PIXELS, SourceLoader, own_object_path

RED, BLUE = (255, 0, 0), (0, 0, 255)


def png(colour: tuple[int, int, int], size: tuple[int, int] = (16, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def data_uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Bucket:
    """Objects in memory; records the calls to it."""

    def __init__(self, **objects: bytes) -> None:
        self.objects = {name.replace("__", "/"): data for name, data in objects.items()}
        self.asked: list[tuple[str, int]] = []
        self.given: list[float] = []
        self.takes = 0.0

    def __call__(self, path: str, max_bytes: int, seconds: float) -> bytes:
        self.asked.append((path, max_bytes))
        self.given.append(seconds)
        time.sleep(self.takes)
        if path not in self.objects:
            raise DownloadFailed("download_failed.no_object")
        return self.objects[path]


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **{"firebase_storage_bucket": "app.appspot.com"} | values)  # type: ignore[arg-type]  # by name


def img2img(image_url: str) -> Request:
    return parse({"task_type": "img2img", "prompt": "p", "image_url": image_url})


def inpaint(image_url: str, mask_url: str) -> Request:
    return parse({"task_type": "inpaint", "prompt": "p", "image_url": image_url, "mask_url": mask_url})


def refused(
    error: type[JobError], url: str, bucket: Bucket | None = None, user_id: str | None = "ann", **values: object
) -> str:
    with pytest.raises(error) as caught:
        SourceLoader(settings(**values), bucket).load(img2img(url), user_id)
    assert "image_url: " in str(caught.value)
    assert url[-30:] not in str(caught.value)
    return caught.value.message


@pytest.mark.parametrize("kind", ["png", "PNG", "jpeg", "x-whatever"])
def test_an_inline_image_is_read_by_its_content(kind: str) -> None:
    sources = SourceLoader(settings()).load(img2img(data_uri(png(RED), kind)), None)
    assert sources.image is not None
    assert (sources.image.mode, sources.image.size, sources.image.getpixel((0, 0))) == ("RGB", (16, 8), RED)
    assert sources.mask is None


def test_a_mask_comes_as_grey() -> None:
    white = png((255, 255, 255), (4, 4))
    sources = SourceLoader(settings()).load(inpaint(data_uri(png(RED)), data_uri(white)), None)
    assert sources.mask is not None
    assert (sources.mask.mode, sources.mask.size, sources.mask.getextrema()) == ("L", (4, 4), (255, 255))


def test_errors_of_the_mask_name_the_mask() -> None:
    with pytest.raises(InvalidImage, match=r"^invalid_image: mask_url: "):
        SourceLoader(settings()).load(inpaint(data_uri(png(RED)), data_uri(b"no image")), None)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (
            {"task_type": "inpaint", "image_url": "<html>", "mask_url": "%PDF-1.7"},
            ("image_url: is an HTML page", "; mask_url: is a PDF"),
        ),
        (
            {"task_type": "img2video", "image_url": "<html>", "end_image_url": "<html>"},
            ("image_url, end_image_url: is an HTML page",),
        ),
        (
            {
                "task_type": "img2img",
                "image_url": "good",
                "controlnets": [{"type": "canny", "image_url": "<svg/>"}, {"type": "tile", "image_url": "good"}],
                "ip_adapters": [{"image_url": "OggS"}],
            },
            ("controlnets.0.image_url: is SVG", "; ip_adapters.0.image_url: is "),
        ),
    ],
)
def test_every_picture_that_is_wrong_is_told_at_once(fields: dict[str, Any], named: tuple[str, ...]) -> None:
    def inline(value: Any) -> Any:
        if isinstance(value, list):
            return [entry | {"image_url": inline(entry["image_url"])} for entry in value]
        return data_uri(png(RED) if value == "good" else value.encode())

    pictures = {name: inline(value) for name, value in fields.items() if name != "task_type"}
    with pytest.raises(InvalidImage) as caught:
        SourceLoader(settings()).load(parse({**fields, **pictures, "prompt": "p"}), None)
    told = caught.value.message
    assert told.startswith(named[0])
    assert all(said in told for said in named)
    assert told.count("image_url: ") + told.count("mask_url: ") == len(named)


def test_what_another_try_cannot_help_decides_the_code_of_several() -> None:
    bucket = Bucket(**{"uploads/ann/page.html": b"<html>"})
    there, missing = (f"gs://app.appspot.com/uploads/ann/{name}" for name in ("page.html", "no.png"))

    def told(first: str, second: str) -> JobError:
        with pytest.raises(JobError) as caught:
            SourceLoader(settings(), bucket).load(inpaint(first, second), "ann")
        assert "image_url: " in caught.value.message
        assert "; mask_url: " in caught.value.message
        return caught.value

    errors = [
        told(missing, there),
        told(there, missing),
        told(there, "data:,;base64,!"),
        told("data:,;base64,!", there),
    ]
    assert [error.code for error in errors] == ["invalid_image", "invalid_image", "invalid_image", "invalid_input"]
    assert not any(error.retryable for error in errors)
    again = told(missing, missing.replace("no", "none"))
    assert (again.code, again.retryable) == ("download_failed", True)
    mixed = told("gs://app.appspot.com/uploads/bob/a.png", "https://127.0.0.1/a.png")
    assert (mixed.code, mixed.retryable) == ("forbidden", False)


def test_a_refused_picture_is_let_go_before_the_next_is_read() -> None:
    """Without waiting for Python's collector: eight pictures may have 64 MiB each."""
    kept: list[int] = []

    class File(bytes):
        def __del__(self) -> None:
            kept.pop()

    def read(path: str, max_bytes: int, seconds: float) -> bytes:
        assert not kept
        kept.append(0)
        return File(b"<html>")

    gc.disable()
    try:
        for names in ("ab", "aa"):
            first, second = (f"gs://app.appspot.com/uploads/ann/{name}" for name in names)
            fields = {"task_type": "img2video", "prompt": "p", "image_url": first, "end_image_url": second}
            with pytest.raises(InvalidImage, match="HTML page"):
                SourceLoader(settings(), read).load(parse(fields), "ann")
            assert not kept
    finally:
        gc.enable()


def test_a_bucket_that_fails_later_does_not_hide_a_picture_that_is_wrong() -> None:
    class Down(Bucket):
        def __call__(self, path: str, max_bytes: int, seconds: float) -> bytes:
            raise StorageUnavailable("storage_unavailable.source")

    later = "gs://app.appspot.com/uploads/ann/a.png"
    with pytest.raises(InvalidImage, match="image_url: is an HTML page"):
        SourceLoader(settings(), Down()).load(inpaint(data_uri(b"<html>"), later), "ann")
    with pytest.raises(StorageUnavailable):
        SourceLoader(settings(), Down()).load(inpaint(data_uri(png(RED)), later), "ann")


def test_a_stop_is_never_taken_for_a_picture_that_is_wrong() -> None:
    """`Deleted` is an error of the caller, too."""
    asked: list[int] = []

    def deleted() -> None:
        asked.append(0)
        raise Deleted

    with pytest.raises(Deleted):
        SourceLoader(settings()).load(inpaint(data_uri(png(RED)), data_uri(b"<html>")), None, deleted)
    assert len(asked) == 1


def test_what_is_said_of_a_picture_that_is_named_twice_names_both_fields() -> None:
    cut_off = saved(Image.effect_noise((256, 256), 60).convert("RGB"), "JPEG")
    ref = data_uri(cut_off[: len(cut_off) // 2])
    request = parse({"task_type": "img2video", "prompt": "p", "image_url": ref, "end_image_url": ref})
    (warning,) = SourceLoader(settings()).load(request, None).warnings
    assert warning.startswith("image_url, end_image_url: the file is cut off")


GOOD = base64.b64encode(png(RED) + bytes(-len(png(RED)) % 3) + b"\xfb\xef\xbe\xff\xff\xff\0").decode()
"""It has characters in which the alphabets differ, and padding."""


@pytest.mark.parametrize(
    "head",
    [
        "data:application/octet-stream;base64,",
        "data:;base64,",
        "data:image/*;base64,",
        "data:image/jpeg;charset=utf-8;base64,",
        "data:image/jpeg;name=IMG_1.jpg;base64,",
        'data:image/jpeg;name="a, b.jpg";base64,',
        "data:text/plain;base64,",
        "DATA:image/png;BASE64,",
        "Data:image/png ; Base64 , ",
        "\r\n\t data:image/png;base64,",
    ],
)
def test_a_data_uri_may_name_any_media_type_or_none(head: str) -> None:
    """firebase-js-sdk#1570, flutter-chat-demo#10: React Native's blobs have no type; the content decides."""
    request = img2img(head + GOOD)
    sources = SourceLoader(settings()).load(request, None)
    assert sources.image is not None
    assert sources.image.getpixel((0, 0)) == RED
    assert request.public()["image_url"].startswith("(inline image, ")


URL_SAFE = GOOD.replace("+", "-").replace("/", "_")


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(GOOD[at : at + 76] for at in range(0, len(GOOD), 76)) + "\n",
        "\r\n".join(GOOD[at : at + 64] for at in range(0, len(GOOD), 64)),
        " " + GOOD,
        GOOD + "\t ",
        URL_SAFE,
        URL_SAFE.rstrip("="),
        GOOD.rstrip("="),
        GOOD.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D") + "%0D%0A",
    ],
)
def test_base64_is_read_as_clients_make_it(text: str) -> None:
    """Android's Base64.DEFAULT wraps its lines (RFC 2045), URL-safe encoders omit the padding (RFC 4648, 5)."""
    assert GOOD.endswith("=")
    assert set("+/") <= set(GOOD)
    sources = SourceLoader(settings()).load(img2img(f"data:image/png;base64,{text}"), None)
    assert sources.image is not None
    assert sources.image.getpixel((0, 0)) == RED


def test_a_plus_that_a_form_took_is_named_and_not_guessed() -> None:
    assert "written as %2B" in refused(InvalidInput, "data:image/png;base64," + GOOD.replace("+", " "))


@pytest.mark.parametrize(
    "text",
    [
        GOOD[:40] + " " + GOOD[40:],
        GOOD.rstrip("=") + "A===",
        GOOD.rstrip("=") + "A==",
        GOOD.rstrip("=") + "AAA",
        "=" + GOOD,
        GOOD[:40] + "=" + GOOD[40:],
        GOOD + "====",
        GOOD[:40] + "é" + GOOD[41:],
        GOOD[:40] + "\ud800" + GOOD[41:],
        GOOD[:40] + "%2" + GOOD[42:],
        GOOD + GOOD,
        GOOD[:40] + "\x00" + GOOD[41:],
    ],
)
def test_base64_is_read_strictly(text: str) -> None:
    request = img2img(data_uri(png(RED))).model_copy(update={"image_url": f"data:image/png;base64,{text}"})
    with pytest.raises((InvalidInput, InvalidImage)) as caught:
        SourceLoader(settings()).load(request, None)
    assert isinstance(caught.value, InvalidInput)
    assert caught.value.problems[0].field == "image_url"


def test_an_empty_inline_image_is_no_image() -> None:
    refused(InvalidImage, "data:image/png;base64,")


def test_an_inline_image_over_the_limit_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base64, "b64decode", None)
    message = refused(InvalidInput, "data:image/png;base64," + "A" * 2000, max_input_image_bytes=1024)
    assert "at most 1024 bytes" in message


def test_an_inline_image_of_exactly_the_limit_is_taken() -> None:
    data = png(RED)
    padded = data + bytes(1024 - len(data))  # readers stop at IEND
    loader = SourceLoader(settings(max_input_image_bytes=1024))
    assert loader.load(img2img(data_uri(padded)), None).image is not None
    with pytest.raises(InvalidInput):
        loader.load(img2img(data_uri(padded + bytes(1))), None)


def test_the_pixel_limits_are_the_settings() -> None:
    photo = data_uri(png(RED, (100, 100)))
    message = refused(InvalidImage, photo, max_declared_image_pixels=4096)
    assert "100 x 100" in message
    sources = SourceLoader(settings(max_input_image_pixels=4096)).load(img2img(photo), None)
    assert sources.image is not None
    assert sources.image.size == (50, 50)


@pytest.mark.parametrize("folder", ["uploads", "generating"])
def test_an_object_of_the_user_is_read(folder: str) -> None:
    bucket = Bucket()
    bucket.objects[f"{folder}/ann/photos/été 1.png"] = png(BLUE)
    loader = SourceLoader(settings(), bucket)
    sources = loader.load(img2img(f"gs://app.appspot.com/{folder}/ann/photos/été 1.png"), "ann")
    assert sources.image is not None
    assert sources.image.getpixel((0, 0)) == BLUE
    assert bucket.asked == [(f"{folder}/ann/photos/été 1.png", 67_108_864)]


@pytest.mark.parametrize(
    "url",
    [
        "gs://app.appspot.com/uploads/bob/a.png",
        "gs://app.appspot.com/uploads/ann2/a.png",
        "gs://app.appspot.com/uploads/an/a.png",
        "gs://app.appspot.com/uploads/ANN/a.png",
        "gs://app.appspot.com/uploads/a.png",
        "gs://app.appspot.com/ann/a.png",
        "gs://app.appspot.com/private/ann/a.png",
        "gs://app.appspot.com/uploads/%61nn/a.png",
        "gs://other.appspot.com/uploads/ann/a.png",
        "gs://app.appspot.com.evil.example/uploads/ann/a.png",
    ],
)
def test_an_object_of_somebody_else_is_forbidden_and_not_asked_for(url: str) -> None:
    bucket = Bucket()
    refused(Forbidden, url, bucket)
    assert bucket.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "gs://app.appspot.com",
        "gs://app.appspot.com/",
        "gs:///uploads/ann/a.png",
        "gs://app.appspot.com/uploads/ann/",
        "gs://app.appspot.com/uploads/ann/../bob/a.png",
        "gs://app.appspot.com/uploads/ann/./a.png",
        "gs://app.appspot.com/uploads/../uploads/ann/a.png",
        "gs://app.appspot.com//uploads/ann/a.png",
        "gs://app.appspot.com/uploads/ann//a.png",
        "gs://app.appspot.com/uploads/ann/a\\b.png",
        "gs://app.appspot.com/uploads/ann/a\nb.png",
        "gs://app.appspot.com/uploads/ann/a\x00.png",
        "gs://app.appspot.com/uploads/ann/\ud800.png",
        "gs://app.appspot.com/uploads/ann/" + "é" * 600,
        "gs://ann@app.appspot.com/uploads/ann/a.png",
        "gs://app.appspot.com:80/uploads/ann/a.png",
    ],
)
def test_a_path_that_no_upload_has_is_invalid_and_not_asked_for(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        own_object_path(url, "image_url", bucket="app.appspot.com", user_id="ann")
    assert caught.value.problems[0].field == "image_url"
    assert url not in str(caught.value)


def test_without_firebase_or_a_user_an_object_is_an_invalid_field() -> None:
    url = "gs://app.appspot.com/uploads/ann/a.png"
    assert "Firebase" in refused(InvalidInput, url, None)
    assert "Firebase" in refused(InvalidInput, url, Bucket(), firebase_storage_bucket=None)
    assert "user_id" in refused(InvalidInput, url, Bucket(), user_id=None)


def test_a_path_that_was_percent_encoded_on_the_way_is_told_so_and_never_decoded() -> None:
    bucket = Bucket()
    bucket.objects["uploads/ann/a b.png"] = png(RED)
    bucket.objects["uploads/ann/100%25.png"] = png(BLUE)
    loader = SourceLoader(settings(), bucket)
    assert loader.load(img2img("gs://app.appspot.com/uploads/ann/100%25.png"), "ann").image is not None
    assert "with / and not %2F" in refused(InvalidInput, "gs://app.appspot.com/uploads%2fann%2Fa.png", bucket)
    missing = refused(DownloadFailed, "gs://app.appspot.com/uploads/ann/a%20b.png", bucket)
    assert "write %20 as the character that it stands for" in missing
    assert "%" not in refused(DownloadFailed, "gs://app.appspot.com/uploads/ann/no.png", bucket)


def test_another_bucket_is_told_where_its_name_stands() -> None:
    assert "storageBucket" in refused(Forbidden, "gs://app.firebasestorage.app/uploads/ann/a.png", Bucket())


def test_a_bucket_that_sends_more_than_was_asked_for_is_not_trusted() -> None:
    bucket = Bucket()
    bucket.objects["uploads/ann/a.png"] = bytes(5000)
    refused(InvalidImage, "gs://app.appspot.com/uploads/ann/a.png", bucket, max_input_image_bytes=1024)


def test_a_missing_object_is_the_adapters_error() -> None:
    with pytest.raises(DownloadFailed):
        SourceLoader(settings(), Bucket()).load(img2img("gs://app.appspot.com/uploads/ann/no.png"), "ann")


def test_pictures_come_over_https() -> None:
    def loopback(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    with HttpsServer() as server:
        server.files |= {"/image.jpg?size=2": png(RED), "/mask.png": png((0, 0, 0)), "/page": b"<html>"}
        fetcher = Fetcher(
            100_000, resolve=loopback, is_allowed=lambda _: True, ports=frozenset({server.port}), tls=server.tls
        )
        loader = SourceLoader(settings(), None, fetcher)
        site = f"https://{HOST}:{server.port}"
        sources = loader.load(inpaint(f"{site}/image.jpg?size=2", f"{site}/mask.png"), None)
        assert sources.image is not None
        assert sources.mask is not None
        assert sources.image.getpixel((0, 0)) == RED
        assert sources.mask.getextrema() == (0, 0)
        with pytest.raises(InvalidImage, match="image_url"):
            loader.load(img2img(f"{site}/page"), None)


def test_the_default_policy_goes_nowhere_inside() -> None:
    refused(UrlBlocked, "https://127.0.0.1/a.png")
    refused(UrlBlocked, "https://169.254.169.254/latest/meta-data/")


@pytest.mark.parametrize("asked_until_stop", [1, 2])
def test_a_stop_request_ends_loading_before_the_next_picture(asked_until_stop: int) -> None:
    asked = 0

    def raise_if_stopped() -> None:
        nonlocal asked
        asked += 1
        if asked == asked_until_stop:
            raise Cancelled

    request = inpaint(data_uri(png(RED)), data_uri(b"never read"))
    with pytest.raises(Cancelled):
        SourceLoader(settings()).load(request, None, raise_if_stopped)


@pytest.mark.e2e
def test_importing_what_handles_media_imports_no_pixels() -> None:
    names = "('torch', 'numpy', 'PIL', 'imageio_ffmpeg')"
    ours = "worker.sources.loader, worker.media.video, worker.media.inline"
    code = f"import sys, {ours}; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_pictures_in_lists_come_in_their_order_and_no_larger_than_anything_needs() -> None:
    wide, small = data_uri(png(RED, (2400, 2000))), data_uri(png(RED))
    asked = {
        "prompt": "p",
        "controlnets": [{"type": "tile", "image_url": wide}, {"type": "canny", "image_url": small}],
        "ip_adapters": [{"image_url": small}],
    }
    sources = SourceLoader(settings()).load(parse(asked), None)
    assert sources.image is None
    assert sources.controls[0].width * sources.controls[0].height <= LISTED_PIXELS
    assert sources.controls[1].size == sources.references[0].size


@pytest.mark.parametrize(
    ("control", "line", "behind"),
    [
        ({"type": "scribble"}, (255, 255, 255), (0, 0, 0)),
        ({"type": "scribble"}, (0, 0, 0), (255, 255, 255)),
        ({"type": "scribble", "preprocess": False}, (255, 255, 255), (0, 0, 0)),
        ({"type": "openpose", "preprocess": False}, RED, (0, 0, 0)),
        ({"type": "tile", "preprocess": False}, RED, (255, 255, 255)),
        ({"type": "canny"}, RED, (255, 255, 255)),
    ],
)
def test_a_drawing_on_a_clear_canvas_stays_seen(
    control: dict[str, Any], line: tuple[int, ...], behind: tuple[int, ...]
) -> None:
    """PencilKit draws white on transparent when the phone is in dark mode: on white, the strokes would be invisible."""
    drawing = Image.new("RGBA", (32, 32))
    drawing.paste((*line, 255), (12, 12, 20, 20))
    ref = data_uri(saved(drawing))
    entries = [{**control, "image_url": ref}, {"type": "canny", "image_url": ref}]
    shown, as_a_photo = SourceLoader(settings()).load(parse({"prompt": "p", "controlnets": entries}), None).controls
    assert (shown.getpixel((15, 15)), shown.getpixel((2, 2))) == (line, behind)
    assert as_a_photo.getpixel((2, 2)) == (255, 255, 255)


def test_a_picture_that_is_named_twice_is_read_once() -> None:
    bucket = Bucket(**{"uploads/ann/a.png": png(RED)})
    ref = "gs://app.appspot.com/uploads/ann/a.png"
    request = parse({"task_type": "img2video", "prompt": "p", "image_url": ref, "end_image_url": ref})
    sources = SourceLoader(settings(), bucket).load(request, "ann")
    assert len(bucket.asked) == 1
    assert sources.end is sources.image


def test_all_pictures_of_a_job_share_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SOURCES_SECONDS", 1.1)
    names = [f"uploads/ann/{number}.png" for number in range(4)]
    bucket = Bucket()
    bucket.objects = dict.fromkeys(names, png(RED))
    bucket.takes = 0.4
    controls = [{"type": "tile", "image_url": f"gs://app.appspot.com/{name}"} for name in names]
    listed = {"controlnets": controls[:3], "ip_adapters": [{"image_url": controls[3]["image_url"]}]}
    with pytest.raises(DownloadFailed, match=r"the pictures of a job have 1\.1 seconds together") as caught:
        SourceLoader(settings(), bucket).load(parse({"prompt": "p", **listed}), "ann")
    assert caught.value.retryable
    assert bucket.given == sorted(bucket.given, reverse=True)
    assert all(seconds <= 1.1 - 0.4 * number for number, seconds in enumerate(bucket.given))
    assert len(bucket.given) < 4


def test_the_time_that_a_picture_is_decoded_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead, now = [0.0], time.monotonic

    class Slow:
        def read(self, *_: object, **__: object) -> None:
            ahead[0] += timing.SOURCES_SECONDS
            raise sandbox.TimeIsOverError

    monkeypatch.setattr(time, "monotonic", lambda: now() + ahead[0])
    monkeypatch.setattr(sandbox, "shared", Slow)
    with pytest.raises(InvalidImage) as caught:
        SourceLoader(settings()).load(inpaint(data_uri(png(RED)), data_uri(png(BLUE))), None)
    assert "image_url: " in caught.value.message
    assert "mask_url" not in caught.value.message, "there was no time for it"


def test_a_wait_for_other_jobs_pictures_counts_against_no_picture_right_or_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise one that is wrong could hide the next from its client, or make a good one out of time."""
    ahead, now = [0.0], time.monotonic

    class LongWait:
        def acquire(self, timeout: float) -> bool:
            ahead[0] += 2 * timing.SOURCES_SECONDS
            return True

        def release(self) -> None:
            """Nobody else waits."""

    monkeypatch.setattr(time, "monotonic", lambda: now() + ahead[0])
    monkeypatch.setattr(decode, "_places", LongWait())
    good, cut = png(RED), png(RED)[:40]
    assert SourceLoader(settings()).load(inpaint(data_uri(good), data_uri(png(BLUE))), None).mask is not None
    with pytest.raises(InvalidImage) as caught:
        SourceLoader(settings()).load(inpaint(data_uri(cut), data_uri(cut + b"0")), None)
    assert "image_url: " in caught.value.message
    assert "mask_url: " in caught.value.message


def test_a_picture_in_a_list_is_blamed_by_its_place() -> None:
    asked = {"prompt": "p", "ip_adapters": [{"image_url": data_uri(b"<html>")}]}
    with pytest.raises(InvalidImage, match=r"ip_adapters\.0\.image_url"):
        SourceLoader(settings()).load(parse(asked), None)
