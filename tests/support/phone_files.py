"""Files as phones and their apps write them, made by real encoders, each with the colours that it shows.

All show the same scene: four fields whose colours tell the orientation. `PHONE_FILES` is the list; a file is made on
first use and kept for the session.
"""

import functools
import io
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pillow_heif
from PIL import Image

from tests.support.hostile_pictures import saved
from tests.support.profiles import screen

Colour = tuple[int, int, int]
Fields = tuple[Colour, Colour, Colour, Colour]

SRGB: Fields = ((255, 0, 0), (216, 93, 72), (101, 183, 75), (90, 90, 90))
"""Upper left, upper right, lower left, lower right."""
P3: Fields = ((234, 51, 35), (201, 100, 80), (120, 180, 90), (90, 90, 90))
"""The same colours as numbers under a Display P3 profile (HeicConverter PR#37, imgproxy#539)."""
GREY: Fields = ((130, 130, 130), (200, 200, 200), (60, 60, 60), (90, 90, 90))

_ORIENTATION = 0x0112
_TURNED_BACK = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF's orientation -> how a sensor would have stored an upright scene."""


@dataclass(frozen=True)
class PhoneFile:
    """One file of a phone."""

    name: str
    media_type: str
    size: tuple[int, int]
    """Width and height of the upright picture."""
    make: Callable[[], bytes]
    fields: Fields = SRGB
    """Its colours in sRGB."""
    slow: bool = False
    """Whether making or reading it takes seconds."""

    @property
    def data(self) -> bytes:
        return _made(self)

    @property
    def megapixels(self) -> float:
        return self.size[0] * self.size[1] / 1e6

    def __str__(self) -> str:
        return self.name


@functools.cache
def _made(file: PhoneFile) -> bytes:
    return file.make()


def scene(size: tuple[int, int], fields: Fields = SRGB, mode: str = "RGB") -> Image.Image:
    """Draw the four fields."""
    width, height = size
    picture = Image.new(mode, size)
    for index, colour in enumerate(fields):
        left, top = index % 2 * (width // 2), index // 2 * (height // 2)
        shown: Any = colour[0] if mode == "L" else colour
        picture.paste(shown, (left, top, left + (width + 1) // 2, top + (height + 1) // 2))
    return picture


def shown_fields(picture: Image.Image) -> list[Colour]:
    """Return the colour in the middle of each field, the mean of a small square."""
    width, height = picture.size
    found = []
    for row in (1, 3):
        for column in (1, 3):
            x, y = column * width // 4, row * height // 4
            square = np.asarray(picture.convert("RGB").crop((x - 2, y - 2, x + 3, y + 3)), np.float64)
            red, green, blue = square.reshape(-1, 3).mean(0).round().astype(int).tolist()
            found.append((red, green, blue))
    return found


def difference(one: Colour, other: Colour) -> float:
    """Return how different two sRGB colours look: CIE 1976, Delta E*ab; 2 is about what an eye sees side by side."""
    return float(np.linalg.norm(_lab(one) - _lab(other)))


def _lab(colour: Colour) -> "np.ndarray[Any, np.dtype[np.float64]]":
    signal = np.array(colour, np.float64) / 255
    light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ light / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# --- the makers ---


def stored(size: tuple[int, int], fields: Fields, orientation: int) -> Image.Image:
    """Return the scene as the sensor stores it: EXIF's orientation turns it upright, to `size`."""
    turn = _TURNED_BACK[orientation]
    upright = scene(size, fields)
    return upright if turn is None else upright.transpose(turn)


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    exif[0x010F] = "Phone"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    return exif


def jpeg(
    size: tuple[int, int], fields: Fields = SRGB, orientation: int = 1, profile: bytes | None = None, **options: Any
) -> bytes:
    picture = stored(size, fields, orientation)
    extra = {"icc_profile": profile} if profile else {}
    return saved(picture, "JPEG", quality=92, exif=exif_of(orientation), **extra, **options)


def textured_jpeg(size: tuple[int, int]) -> bytes:
    """Return a grey JPEG with as many bytes for each pixel as a photo of much detail: one row of blocks, repeated.

    Each row begins anew with a restart marker (ITU-T T.81, F.1.1.5.1), so the picture is never held as a whole.
    """
    (width, height), block = size, 16
    noise = Image.effect_noise((width, block), 5)
    row = saved(Image.merge("RGB", [noise] * 3), "JPEG", quality=92, restart_marker_rows=1)
    frame, scan = row.index(b"\xff\xc0"), row.index(b"\xff\xda")
    begin, end = scan + 2 + int.from_bytes(row[scan + 2 : scan + 4]), len(row) - 2
    head = row[: frame + 5] + height.to_bytes(2) + row[frame + 7 : begin]
    rows = (row[begin:end] + bytes((0xFF, 0xD0 + at % 8)) for at in range(height // block))
    return head + b"".join(rows)[:-2] + row[end:]


def heic(size: tuple[int, int], orientation: int = 1) -> bytes:
    """Return a HEIC as an iPhone makes it: tiles of 512, Display P3, rotated by the container's own property."""
    pillow_heif.register_heif_opener()
    out = io.BytesIO()
    stored(size, P3, orientation).save(
        out,
        "HEIF",
        quality=80,
        tile_size=512,
        exif=exif_of(orientation).tobytes(),
        icc_profile=screen(),
        enc_params={"preset": "ultrafast"},
    )
    return out.getvalue()


def deep_heic(size: tuple[int, int], *, twelve_bit: bool) -> bytes:
    values = np.asarray(scene(size), np.uint16) * 257
    pillow_heif.options.SAVE_HDR_TO_12_BIT = twelve_bit
    out = io.BytesIO()
    try:
        pillow_heif.from_bytes("RGB;16", size, values.tobytes()).save(out, quality=90, chroma=444)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = False
    return out.getvalue()


def deep_avif(
    size: tuple[int, int], fields: Fields = SRGB, primaries: str = "bt709", transfer: str = "iec61966-2-1"
) -> bytes:
    """Return an AVIF of 10 bits a channel, by libaom; primaries and transfer function by ffmpeg's names."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.avif"
        rgb = np.asarray(scene(size, fields), np.float64) / 255
        light = rgb @ (0.2126, 0.7152, 0.0722)
        planes = np.stack([light, (rgb[..., 2] - light) / 1.8556 + 0.5, (rgb[..., 0] - light) / 1.5748 + 0.5])
        raw = np.clip(np.round(planes * 1023), 0, 1023).astype("<u2").tobytes()
        command = [
            *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "yuv444p10le"),
            *("-colorspace", "bt709", "-color_range", "pc", "-s", f"{size[0]}x{size[1]}", "-i", "pipe:0"),
            *("-vf", f"setparams=range=pc:colorspace=bt709:color_primaries={primaries}:color_trc={transfer}"),
            *("-frames:v", "1"),
            *("-c:v", "libaom-av1", "-still-picture", "1", "-crf", "12", "-cpu-used", "8", str(path)),
        ]
        subprocess.run(command, input=raw, check=True, capture_output=True)
        return path.read_bytes()


def motion_photo() -> bytes:
    """Return an Android motion photo: a clip follows the end of the photo."""
    return jpeg((1600, 1200)) + b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(range(256)) * 400


def panorama_without_end() -> bytes:
    data = jpeg((4000, 900))
    assert data.endswith(b"\xff\xd9")
    return data[:-2]


def multi_picture() -> bytes:
    """Return an MPO: the photo and a differing preview in one file, as phones with two lenses write it."""
    first, second = scene((1600, 1200)), Image.new("RGB", (320, 240), (0, 0, 255))
    return saved(first, "MPO", save_all=True, append_images=[second], quality=92)


def cmyk() -> bytes:
    return saved(Image.merge("CMYK", [*_inks((800, 600))]), "JPEG", quality=95)


def _inks(size: tuple[int, int]) -> tuple[Image.Image, ...]:
    return scene(size).convert("CMYK").split()


def strip(size: tuple[int, int]) -> bytes:
    """Return an animation of two frames; the first is the scene."""
    blue = Image.new("RGB", size, (0, 0, 255))
    return saved(scene(size), "GIF", save_all=True, append_images=[blue])


MP24, MP48 = (5712, 4284), (8064, 6048)
UPRIGHT_12 = (3024, 4032)
PANORAMA = (16_382, 3846)
"""The largest iPhone panorama, by Apple's own specification: "Panorama (up to 63MP)"."""

PHONE_FILES = (
    PhoneFile("iphone-12mp.heic", "image/heic", UPRIGHT_12, lambda: heic(UPRIGHT_12, 6), slow=True),
    PhoneFile("iphone-panorama.heic", "image/heic", PANORAMA, lambda: heic(PANORAMA), slow=True),
    PhoneFile("iphone-48mp.heic", "image/heic", MP48, lambda: heic(MP48), slow=True),
    PhoneFile("camera-10bit.heic", "image/heif", (640, 480), lambda: deep_heic((640, 480), twelve_bit=False)),
    PhoneFile("camera-12bit.heic", "image/heif", (640, 480), lambda: deep_heic((640, 480), twelve_bit=True)),
    PhoneFile("iphone-p3.jpg", "image/jpeg", UPRIGHT_12, lambda: jpeg(UPRIGHT_12, P3, 6, screen()), slow=True),
    PhoneFile("iphone-24mp.jpg", "image/jpeg", MP24, lambda: jpeg(MP24, P3, 3, screen()), slow=True),
    PhoneFile("iphone-48mp.jpg", "image/jpeg", MP48, lambda: jpeg(MP48, P3, 1, screen()), slow=True),
    PhoneFile("galaxy-50mp.jpg", "image/jpeg", (6120, 8160), lambda: jpeg((6120, 8160), SRGB, 6), slow=True),
    PhoneFile("galaxy-108mp.jpg", "image/jpeg", (12000, 9000), lambda: jpeg((12000, 9000)), slow=True),
    PhoneFile("galaxy-200mp.jpg", "image/jpeg", (16320, 12240), lambda: jpeg((16320, 12240)), slow=True),
    PhoneFile(
        "progressive-48mp.jpg", "image/jpeg", MP48, lambda: jpeg(MP48, SRGB, 1, None, progressive=True), slow=True
    ),
    PhoneFile("two-lenses.mpo", "image/jpeg", (1600, 1200), multi_picture),
    PhoneFile("motion-photo.jpg", "image/jpeg", (1600, 1200), motion_photo),
    PhoneFile("panorama-without-end.jpg", "image/jpeg", (4000, 900), panorama_without_end),
    PhoneFile("grey.jpg", "image/jpeg", (800, 600), lambda: saved(scene((800, 600), GREY, "L"), "JPEG"), GREY),
    PhoneFile("press.jpg", "image/jpeg", (800, 600), cmyk),
    PhoneFile("hdr-phone-10bit.avif", "image/avif", (640, 480), lambda: deep_avif((640, 480))),
    PhoneFile("small.avif", "image/avif", (800, 600), lambda: saved(scene((800, 600)), "AVIF", quality=90)),
    PhoneFile("shared.webp", "image/webp", (1200, 1600), lambda: saved(scene((1200, 1600)), "WEBP", quality=95)),
    PhoneFile(
        "screenshot.png",
        "image/png",
        (1170, 2532),
        lambda: saved(scene((1170, 2532), P3), "PNG", icc_profile=screen()),
    ),
    PhoneFile("scan.tiff", "image/tiff", (800, 600), lambda: saved(scene((800, 600)), "TIFF", compression="tiff_lzw")),
    PhoneFile("old.bmp", "image/bmp", (800, 600), lambda: saved(scene((800, 600)), "BMP")),
    PhoneFile("moving.gif", "image/gif", (400, 300), lambda: strip((400, 300))),
)
"""Files that people send, with what they show: each is read the right way up, in these colours."""

MP200 = (16_320, 12_240)
TEXTURED = PhoneFile(
    "galaxy-200mp-textured.jpg", "image/jpeg", MP200, lambda: textured_jpeg(MP200), ((128, 128, 128),) * 4, slow=True
)
"""The largest file that a phone makes, 54 MB, without a scene."""
