"""Compares decoding a client's image in a separate process with decoding it in the worker's process.

    python benchmarks/decode.py [--repeat 5] [--quick]

Both run `worker.media.reader` on the same bytes, in turn; the pixels are asserted equal. A worker's first image waits
for the process to start, unless it was started in advance; later ones find it ready.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.phone_files import PHONE_FILES, TEXTURED
from worker.media import decode, reader, sandbox
from worker.media.kinds import kind_of

HELD = 16_777_216
NAMES = ("old.bmp", "shared.webp", "screenshot.png", "iphone-p3.jpg", "iphone-12mp.heic", "iphone-48mp.jpg")
LARGE = ("iphone-48mp.heic", "galaxy-200mp.jpg", "galaxy-200mp-textured.jpg")
QUICK = ("old.bmp", "small.avif")


def seconds(work: Callable[[], object], repeat: int) -> float:
    """Return the median duration of `repeat` runs."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Print one line per file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two small files only")
    options = parser.parse_args()
    names = QUICK if options.quick else NAMES + LARGE
    files = [file for file in (*PHONE_FILES, TEXTURED) if file.name in names]
    limits = reader.Limits(HELD, decode.MAX_DECLARED_PIXELS, sandbox.MEMORY_BYTES)
    reader.get_ready()
    rows: list[tuple[str, ...]] = [("file", "pixels", "first ms", "next ms", "in process ms", "next/in process")]
    for file in files:
        data, kind = file.data, kind_of(file.data, file.name)

        def ours(data: bytes = data) -> decode.Picture:
            return decode.decode_image(data, "image_url", HELD)

        def plain(data: bytes = data, kind: str = kind) -> reader.Read:
            return reader.read(data, kind, "image_url", limits, mask=False)

        assert ours().image.tobytes() == plain().image.tobytes()
        sandbox.shared().stop()
        first, later, inside = seconds(ours, 1), seconds(ours, options.repeat), seconds(plain, options.repeat)
        size = f"{file.size[0]}x{file.size[1]}"
        numbers = (f"{1000 * value:.0f}" for value in (first, later, inside))
        rows.append((file.name, size, *numbers, f"{later / inside:.1f}x"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
