"""Phones' files, made by real encoders: each is read the right way up, in its colours, in little memory."""

import base64
import contextlib
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.phone_files import PHONE_FILES, TEXTURED, PhoneFile, difference, shown_fields
from worker.api.request import parse
from worker.core.config import load_settings
from worker.media.decode import decode_image
from worker.sources.loader import SourceLoader

HELD = 16_777_216
EVERY_FILE = [pytest.param(file, id=file.name, marks=[pytest.mark.slow] if file.slow else []) for file in PHONE_FILES]
THROUGH_THE_LOADER = {"iphone-12mp.heic", "iphone-48mp.jpg", "galaxy-200mp.jpg"}
LARGE = (
    *("iphone-48mp.heic", "iphone-48mp.jpg", "galaxy-200mp.jpg", "galaxy-200mp-textured.jpg", "progressive-48mp.jpg"),
)


@pytest.mark.parametrize("file", EVERY_FILE)
def test_a_phones_file_is_read_upright_and_in_its_colours(file: PhoneFile, caplog: pytest.LogCaptureFixture) -> None:
    """uppy#4792: an iPhone 15 takes 24 MP by default; HeicConverter PR#37: in Display P3; expo#43790: as HEIC."""
    with caplog.at_level(logging.INFO):
        picture = decode_image(file.data, "image_url", HELD)
    assert picture.warnings == ()
    assert picture.image.mode == "RGB"
    assert picture.image.width * picture.image.height <= HELD
    scale = file.size[0] / picture.image.width
    assert picture.image.height == pytest.approx(file.size[1] / scale, abs=1)
    assert scale == 1 or file.megapixels > HELD / 1e6
    assert max(map(difference, shown_fields(picture.image), file.fields)) <= 2
    (line,) = (record for record in caplog.records if getattr(record, "action", "") == "decoded")
    facts = vars(line)
    assert facts["megapixels"] == pytest.approx(file.megapixels, abs=0.1)
    assert 0 < facts["seconds"] < 30
    assert file.name not in line.getMessage()


@pytest.mark.parametrize("file", [param for param in EVERY_FILE if not param.marks or param.id in THROUGH_THE_LOADER])
def test_a_phones_file_comes_through_the_loader_as_inline_data(file: PhoneFile) -> None:
    uri = f"data:{file.media_type};base64,{base64.b64encode(file.data).decode()}"
    request = parse({"task_type": "img2img", "prompt": "p", "image_url": uri})
    sources = SourceLoader(load_settings()).load(request, None)
    assert sources.image is not None
    assert max(map(difference, shown_fields(sources.image), file.fields)) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_largest_photos_take_less_than_400_mb_above_idle(name: str, tmp_path: Path) -> None:
    """The worker's process and the decoder's together, sampled every few milliseconds."""
    (file,) = (file for file in (*PHONE_FILES, TEXTURED) if file.name == name)
    path = tmp_path / "photo"
    path.write_bytes(file.data)
    code = (
        "import io, sys; from worker.media import decode; from PIL import Image; small = io.BytesIO(); "
        "Image.new('RGB', (16, 16)).save(small, 'PNG'); decode.decode_image(small.getvalue(), 'image_url', 256); "
        "data = open(sys.argv[1], 'rb').read(); print('ready', flush=True); sys.stdin.readline(); "
        "decode.decode_image(data, 'image_url', 16777216, seconds=300); print('read', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        idle, peak = held(process.pid), [0]
        reading = threading.Event()

        def look() -> None:
            while not reading.is_set():
                peak[0] = max(peak[0], held(process.pid))
                time.sleep(0.005)

        looker = threading.Thread(target=look)
        looker.start()
        print("go", file=process.stdin, flush=True)
        assert process.stdout.readline() == "read\n"
        reading.set()
        looker.join()
        print("end", file=process.stdin, flush=True)
    print(f"{name}: {(peak[0] - idle) / 1e6:.0f} MB above {idle / 1e6:.0f} MB")
    assert 10e6 < peak[0] - idle < 400e6


def held(pid: int) -> int:
    """Return the resident bytes of a process and all its descendants; shared memory counts twice."""
    import psutil  # type: ignore[import-untyped]  # it has no types

    total, process = 0, psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_info().rss
    return total


@pytest.mark.slow
def test_a_mask_may_be_as_large_as_its_photo() -> None:
    (file,) = (file for file in PHONE_FILES if file.name == "galaxy-50mp.jpg")
    mask = decode_image(file.data, "mask_url", HELD, mask=True)
    assert mask.image.mode == "L"
    assert mask.image.size == decode_image(file.data, "image_url", HELD).image.size
