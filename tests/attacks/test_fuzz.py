"""Random and mutated input for a bounded time: only `InvalidInput` and `InvalidImage` may come out.

`FUZZ_SECONDS` is the total time (20); `FUZZ_SEED` repeats a run that found something. Each finding prints its input.
"""

import base64
import contextlib
import io
import json
import os
import random
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pillow_heif
import pytest
from PIL import Image

from tests.support.hostile_pictures import SEEDS as PICTURES
from tests.support.hostile_pictures import flat_memory, saved
from tests.support.profiles import grey, press, screen
from worker.api.request import REQUESTS, envelope, parse
from worker.core.config import load_settings
from worker.core.errors import DownloadFailed, Forbidden, InvalidImage, InvalidInput, UrlBlocked
from worker.media import reader
from worker.media.decode import decode_image
from worker.media.kinds import kind_of
from worker.media.sandbox import MEMORY_BYTES
from worker.sources.http import Fetcher
from worker.sources.loader import SourceLoader

# Pillow's warnings about broken files; the worker silences them, pytest restores them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 20)
SEED = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(2**32))
MAX_PIXELS = 1 << 20


@pytest.fixture
def dice() -> random.Random:
    print(f"FUZZ_SEED={SEED}")
    return random.Random(SEED)


def until(share: float) -> Iterator[int]:
    """Yield numbers for this share of the time; at least a hundred."""
    end, number = time.monotonic() + share * SECONDS, 0
    while number < 100 or time.monotonic() < end:
        yield number
        number += 1


# --- requests ---------------------------------------------------------------------------------------------------------

FIELDS = sorted({name for model in REQUESTS.values() for name in model.model_fields})
PICTURE = "data:image/png;base64," + base64.b64encode(PICTURES[0]).decode()
VALID: list[dict[str, Any]] = [
    {
        "prompt": "a fox",
        "width": 64,
        "height": 64,
        "num_images": 2,
        "seed": 7,
        "guidance_scale": 5.5,
        "scheduler": "DDIM",
    },
    {"task_type": "img2img", "prompt": "a fox", "image_url": PICTURE, "strength": 0.5, "output_format": "webp"},
    {"task_type": "inpaint", "prompt": "a", "image_url": "https://x.example/a", "mask_url": "gs://b/uploads/u/a"},
    {
        "task_type": "inpaint",
        "prompt": "a",
        "image_url": PICTURE,
        "outpaint": {"left": 64, "down": 8},
        "mask_blur": 4,
        "inpaint_area": "masked",
    },
    {"task_type": "text2video", "prompt": "a", "num_frames": 81, "fps": 15, "video_width": 832, "flow_shift": 3.0},
    {"task_type": "img2video", "prompt": "a", "image_url": PICTURE, "video_guidance_scale": 5},
    {"prompt": "a", "user_id": "u", "file_uid": "f", "use_cloud_storage": True, "id_token": "x.y.z"},
]
CHARACTERS = "aZ09_-./\\%(){}<>\"' \t\r\n\x00\x1b\x7f\x85\u200b\u202e\u2028\ud800\udfff\ufeffａé🦊\U0010ffff"
STRANGE: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        5,
        8,
        63,
        64,
        1023,
        2**31,
        2**32 - 1,
        2**32,
        2**53,
        2**63,
        2**64,
        10**400,
        -(10**400),
    ),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 20.0, 2.0**60),
    *(
        "",
        " ",
        "20",
        "true",
        "null",
        "text2img",
        "../x",
        "https://",
        "data:image/png;base64,",
        "gs://b/",
        "__x__",
        "\ud800",
    ),
    *(
        [],
        {},
        [[]],
        [1],
        {"a": 1},
        {"": None},
        {"__proto__": {}},
        {"left": 8},
        {"left": [8], "up": {"up": 8}},
        b"bytes",
        (1, 2),
        {1: 2},
    ),
]


def strange(dice: random.Random, depth: int = 0) -> Any:
    kind = dice.randrange(6 if depth < 5 else 4)
    if kind == 0:
        return "".join(dice.choices(CHARACTERS, k=dice.choice((0, 1, 5, 30, 128, 129, 4000, 4001))))
    if kind == 1:
        return dice.choice((1, -1)) * dice.getrandbits(dice.choice((1, 8, 32, 33, 64, 2000)))
    if kind == 2:
        return struct.unpack("<d", dice.randbytes(8))[0]
    if kind == 3:
        return dice.choice(STRANGE)
    if kind == 4:
        return [strange(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {str(strange(dice, 9))[:50]: strange(dice, depth + 1) for _ in range(dice.randrange(4))}


def mutated(dice: random.Random) -> Any:
    if dice.random() < 0.05:
        return strange(dice)
    job = dict(dice.choice(VALID))
    for _ in range(dice.randrange(1, 5)):
        field = dice.choice((*job, *FIELDS, str(strange(dice, 9))[:60]))
        match dice.randrange(5):
            case 0:
                job.pop(field, None)
            case 1 if isinstance(job.get(field), str):
                at = dice.randrange(len(job[field]) + 1)
                job[field] = job[field][:at] + "".join(dice.choices(CHARACTERS, k=3)) + job[field][at + 1 :]
            case _:
                job[field] = strange(dice)
    return job


@pytest.mark.slow
def test_no_request_gets_anything_else_out_of_the_parser(dice: random.Random) -> None:
    valid = refused = 0
    with flat_memory(100):
        for _ in until(0.3):
            job = mutated(dice)
            try:
                envelope(job)
                request = parse(job)
            except InvalidInput as error:
                refused += 1
                message = str(error)
                message.encode()
                assert error.problems
                assert len(message) < 10_000
                assert message.isprintable(), ascii(job)
            except BaseException:
                print(ascii(job)[:5000])
                raise
            else:
                valid += 1
                json.dumps(request.public(), allow_nan=False).encode()
                assert parse(job) == request
    print(f"requests: {refused} refused, {valid} valid")
    assert refused
    assert valid


# --- references -------------------------------------------------------------------------------------------------------

HEADS = (
    *(
        "data:image/png;base64,",
        "DATA:;base64,",
        "data:a/b;name=x;BASE64 ,",
        "data:,",
        "data:image/png,",
        "data%3A",
        "",
    ),
    *(
        "https://",
        "HTTPS://",
        "http://",
        "gs://bucket/uploads/u/",
        "GS://bucket/",
        "//",
        "blob:",
        "\\\\",
        "/9j/",
        " ",
        "\t\n",
    ),
)


def reference(dice: random.Random) -> str:
    """Return a picture in base64, a host or a path, damaged, after something that a reference begins with."""
    body = dice.choice(
        (PICTURE.partition(",")[2], "127.0.0.1/a.png", "①27。0.0.1", "a%2e%2e/é", "x" * 9000, "[::1]:443")
    )
    for _ in range(dice.randrange(3)):
        at = dice.randrange(len(body) + 1)
        piece = dice.choice(
            ("\n", "\r\n", " ", "%2B", "%", "=", "==", "-", "_", "+", ",", "\x00", "é", "\\", "@", "?#")
        )
        body = body[:at] + piece + body[at + dice.randrange(2) :]
    return dice.choice(HEADS) + body + dice.choice(("", "=", "\n", " "))


@pytest.mark.slow
def test_no_reference_gets_anything_else_out_of_the_loader(dice: random.Random) -> None:
    def nobody(host: str, port: int) -> list[str]:
        raise OSError

    limits = load_settings(firebase_storage_bucket="bucket")
    loader = SourceLoader(limits, lambda path, most, seconds: b"", Fetcher(1000, resolve=nobody))
    shown = refused = 0
    with flat_memory(100):
        for _ in until(0.1):
            ref = reference(dice)
            try:
                request = parse({"task_type": "img2img", "prompt": "a", "image_url": ref})
                kept = request.public()["image_url"]
                assert len(kept) <= 8300, ascii(ref)
                assert "base64," not in kept.lower(), ascii(ref)
                loader.load(request, "u")
            except (InvalidInput, InvalidImage, UrlBlocked, DownloadFailed, Forbidden) as error:
                refused += 1
                assert "image_url" in str(error)
                assert len(str(error)) < 500
            except BaseException:
                print(ascii(ref))
                raise
            else:
                shown += 1
    print(f"references: {refused} refused, {shown} shown")
    assert refused
    assert shown


# --- pictures ---------------------------------------------------------------------------------------------------------


def png_mutated(data: bytes, dice: random.Random) -> bytes:
    """Return a PNG with changed chunks and corrected checksums, so that the damage gets past the checksum test."""
    parts, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        parts.append((data[at + 4 : at + 8], bytearray(data[at + 8 : at + 8 + length])))
        at += 12 + length
    for _ in range(dice.randrange(1, 4)):
        kind, content = dice.choice(parts)
        match dice.randrange(4):
            case 0 if content:
                content[dice.randrange(len(content))] = dice.randrange(256)
            case 1:
                content += dice.randbytes(dice.randrange(20))
            case 2:
                name = dice.choice(
                    (b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"gAMA", kind)
                )
                parts.insert(dice.randrange(len(parts) + 1), (name, bytearray(dice.randbytes(dice.randrange(40)))))
            case _:
                dice.shuffle(parts)
    chunks = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in parts)
    return data[:8] + b"".join(chunks)


def bytes_mutated(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at = dice.randrange(len(changed))
        match dice.randrange(5):
            case 0:
                changed[at] ^= 1 << dice.randrange(8)
            case 1:
                changed[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
            case 2:
                changed[at : at + 4] = dice.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1"))
            case 3:
                del changed[at : at + dice.randrange(1, 30)]
            case _:
                changed[at:at] = changed[at : at + dice.randrange(1, 200)]
        if not changed:
            changed += b"\x89"
    return bytes(changed)


def more_pictures() -> Iterator[bytes]:
    noise = Image.effect_noise((40, 30), 70)
    yield from PICTURES
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield saved(noise.convert("I").convert("I;16") if mode == "I;16" else noise.convert("RGB").convert(mode), "PNG")
    for mode in ("L", "RGB", "CMYK"):
        yield saved(noise.convert("RGB").convert(mode), "JPEG", quality=50)
    yield saved(noise.convert("RGB"), "WEBP", quality=50, exif=Image.Exif().tobytes())
    yield saved(noise.convert("RGB"), "WEBP", save_all=True, append_images=[noise.convert("RGB")] * 3)
    yield from (saved(noise.convert("RGB"), fmt) for fmt in ("AVIF", "GIF", "BMP", "MPO"))
    yield from (
        saved(noise.convert("RGB"), "TIFF", compression=kind) for kind in (None, "tiff_lzw", "jpeg", "packbits")
    )
    yield from (saved(noise.convert("RGB"), fmt, icc_profile=screen()) for fmt in ("JPEG", "PNG", "TIFF", "WEBP"))
    yield saved(noise.convert("L"), "JPEG", icc_profile=grey(1.8))
    yield saved(noise.convert("RGB").convert("CMYK"), "JPEG", icc_profile=press())
    pillow_heif.register_heif_opener()
    yield saved(noise.convert("RGBA"), "HEIF", icc_profile=screen())
    yield saved(noise.convert("RGB").resize((160, 120)), "HEIF", tile_size=64)
    yield saved(noise.convert("RGB"), "GIF", save_all=True, append_images=[noise.convert("L")])


def in_this_process(data: bytes, *, mask: bool) -> reader.Read:
    """Read without the sandbox: thousands of files in seconds, and any other kind of error surfaces."""
    limits = reader.Limits(MAX_PIXELS, MAX_PIXELS, MEMORY_BYTES)
    return reader.read(data, kind_of(data, "image_url"), "image_url", limits, mask=mask)


@pytest.mark.slow
@pytest.mark.parametrize("mask", [False, True], ids=["image", "mask"])
def test_no_picture_gets_anything_else_out_of_the_reader(mask: bool, dice: random.Random) -> None:
    reader.get_ready()
    seeds, shown, refused, slowest = list(more_pictures()), 0, 0, 0.0
    for seed in seeds:
        in_this_process(seed, mask=mask)
    # A picture of the largest size is 4 MB a copy; a leak or a bomb would be hundreds.
    with flat_memory(200):
        for _ in until(0.25):
            seed = dice.choice(seeds)
            png = seed.startswith(b"\x89PNG") and dice.random() < 0.7
            data = png_mutated(seed, dice) if png else bytes_mutated(seed, dice)
            started = time.perf_counter()
            try:
                read = in_this_process(data, mask=mask)
            except InvalidImage as error:
                refused += 1
                assert error.message.startswith("image_url: ")
                assert len(error.message) < 300
            except MemoryError:
                refused += 1  # the sandbox turns it into a message
            except BaseException:
                print(base64.b64encode(data).decode())
                raise
            else:
                shown += 1
                check_picture(read.image, mask=mask)
            slowest = max(slowest, time.perf_counter() - started)
    print(f"pictures: {refused} refused, {shown} shown, slowest {1000 * slowest:.0f} ms")
    assert refused
    assert shown
    assert slowest < 5


@pytest.mark.slow
@pytest.mark.parametrize("mask", [False, True], ids=["image", "mask"])
def test_no_picture_gets_anything_else_out_of_the_sandbox(mask: bool, dice: random.Random) -> None:
    seeds = list(more_pictures())
    with flat_memory(100):
        for _ in until(0.1):
            data = bytes_mutated(dice.choice(seeds), dice)
            try:
                picture = decode_image(data, "image_url", MAX_PIXELS, mask=mask)
            except InvalidImage as error:
                assert error.message.startswith("image_url: ")
            except BaseException:
                print(base64.b64encode(data).decode())
                raise
            else:
                check_picture(picture.image, mask=mask)
    assert decode_image(PICTURES[0], "image_url", MAX_PIXELS).image.size == (24, 16)


def check_picture(picture: Image.Image, *, mask: bool) -> None:
    assert picture.mode == ("L" if mask else "RGB")
    assert picture.width * picture.height <= MAX_PIXELS
    clean = Image.frombytes(picture.mode, picture.size, picture.tobytes())
    assert not any(name in saved(clean) for name in (b"eXIf", b"tEXt", b"iCCP"))


def test_a_reader_is_asked_for_the_formats_that_are_allowed_only() -> None:
    """Pillow knows forty formats; a file of any other one never reaches its reader, whatever it begins with."""
    Image.init()
    read = {"PNG", "JPEG", "WEBP", "MPO", "GIF", "BMP", "TIFF", "AVIF", "HEIF"}
    for name in sorted(set(Image.SAVE) - read):
        buffer = io.BytesIO()
        with contextlib.suppress(Exception):
            Image.new("RGB", (16, 16)).save(buffer, name)
        # A DIB is a BMP without its first header, and icons contain one: nothing is searched for inside.
        with pytest.raises(InvalidImage):
            decode_image(buffer.getvalue(), "image_url", MAX_PIXELS)
