"""Converts a picture's colours to sRGB, as browsers do.

Knows ICC profiles, the H.273 code points that phones use instead of one, and the gamma and chromaticities of old PNGs.
Runs in the sandbox, because littleCMS reads a stranger's profile.
"""

import io
import math
import struct
from typing import TYPE_CHECKING

from worker.media.containers import MAX_PROFILE_BYTES

if TYPE_CHECKING:
    from PIL import Image, ImageCms

Vector = tuple[float, float, float]
Rows = tuple[Vector, ...]

SRGB_TRANSFER = 13
PQ, HLG = 16, 18
_PRIMARIES: dict[int, Rows] = {
    # Red, green and blue as XYZ under D50 (Bradford), as in a profile.
    9: ((0.673459, 0.279033, -0.001931), (0.165661, 0.675338, 0.029979), (0.125100, 0.045629, 0.797162)),  # BT.2020
    12: ((0.515102, 0.241182, -0.001049), (0.291965, 0.692236, 0.041882), (0.157153, 0.066582, 0.784378)),  # Display P3
}
_WHITE_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD: Rows = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_SRGB_CORNERS = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_SRGB_GAMMA = 45455
"""The gamma that encoders write for sRGB's curve; like libpng, values within a twentieth of it count as sRGB."""
_REFERENCE_WHITE_NITS = 203.0
"""Paper white in an HDR picture by ITU-R BT.2408, in nits; brighter light is rolled off."""
_CURVE_POINTS = 1024


class ProfileError(Exception):
    """The profile cannot be used."""


def is_hdr(cicp: tuple[int, int] | None) -> bool:
    """Whether the transfer characteristics are HDR (PQ or HLG)."""
    return cicp is not None and cicp[1] in {PQ, HLG}


def profile_of(cicp: tuple[int, int] | None) -> bytes | None:
    """Return the ICC profile of an H.273 pair; None: no conversion is needed."""
    primaries = _PRIMARIES.get(cicp[0]) if cicp else None
    if cicp is None or (primaries is None and not is_hdr(cicp)):
        return None
    return _icc(primaries or _PRIMARIES[9], _curve(cicp[1]))


def profile_of_png(gamma: int | None, corners: tuple[int, ...]) -> bytes | None:
    """Return the ICC profile of `containers.Parts.gamma` and chromaticities; None: they are sRGB's, or nonsensical."""
    gamma = gamma if gamma is not None else _SRGB_GAMMA
    has_srgb_curve = abs(gamma / _SRGB_GAMMA - 1) < 0.05
    has_srgb_colours = not corners or max(abs(a - b) for a, b in zip(corners, _SRGB_CORNERS, strict=True)) < 1000
    if (has_srgb_curve and has_srgb_colours) or not 10_000 <= gamma <= 200_000:
        return None
    curve = _curve(SRGB_TRANSFER) if has_srgb_curve else b"para" + bytes(8) + _fixed(100_000 / gamma)
    try:
        return _icc(_primaries(_SRGB_CORNERS if has_srgb_colours else corners), curve)
    except (ArithmeticError, struct.error):
        return None


def _primaries(corners: tuple[int, ...]) -> Rows:
    """Return red, green and blue as XYZ under D50, from the x and y of white, red, green and blue.

    Raises:
        ArithmeticError: the chromaticities are impossible.
    """
    white, *points = ((x / y, 1.0, (100_000 - x - y) / y) for x, y in zip(corners[::2], corners[1::2], strict=True))
    cones = [_along(row, _WHITE_D50) / _along(row, white) for row in _BRADFORD]

    def adapted(point: Vector, share: float) -> Vector:
        red, green, blue = (share * cone * _along(row, point) for row, cone in zip(_BRADFORD, cones, strict=True))
        return _solved((*zip(*_BRADFORD, strict=True),), (red, green, blue))

    shares = _solved((*points,), white)
    return tuple(adapted(point, share) for point, share in zip(points, shares, strict=True))


def _along(row: Vector, vector: Vector) -> float:
    return sum(a * b for a, b in zip(row, vector, strict=True))


def _solved(columns: Rows, vector: Vector) -> Vector:
    """Solve a 3 x 3 linear system by Cramer's rule."""

    def volume(a: Vector, b: Vector, c: Vector) -> float:
        return _along(a, (b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]))

    a, b, c = columns
    whole = volume(a, b, c)
    return volume(vector, b, c) / whole, volume(a, vector, c) / whole, volume(a, b, vector) / whole


def to_srgb(image: "Image.Image", profile: bytes) -> "Image.Image":
    """Convert `image` (L, LA, RGB, RGBA or CMYK) to sRGB: perceptually if the profile can, else relative colorimetric.

    Raises:
        ProfileError: the profile is broken, or for another colour space.
    """
    from PIL import ImageCms

    if not 0 < len(profile) <= MAX_PROFILE_BYTES:
        raise ProfileError
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        return _converted(image, source, space)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError) as error:
        raise ProfileError from error


def _converted(image: "Image.Image", source: "ImageCms.ImageCmsProfile", space: str) -> "Image.Image":
    from PIL import Image, ImageCms

    grey = image.mode in {"L", "LA"}
    if space == "RGB" and image.mode != "CMYK":
        image = image.convert("RGBA" if image.mode == "LA" else "RGB") if grey else image
    elif not (space == "GRAY" and grey) and not (space == "CMYK" and image.mode == "CMYK"):
        raise ProfileError
    ours = ImageCms.createProfile("sRGB")
    if space == "RGB":
        small = _lattice()
        shown = ImageCms.applyTransform(small, ImageCms.buildTransform(source, ours, "RGB", "RGB"))
        if shown is not None and _near(small, shown):
            return image
        change = ImageCms.buildTransform(source, ours, image.mode, image.mode)
        ImageCms.applyTransform(image, change, inPlace=True)
        return image
    if image.mode == "LA":
        light, alpha = image.split()
        rgb = _converted(light, source, space)
        return Image.merge("RGBA", (*rgb.split(), alpha))
    out = ImageCms.applyTransform(image, ImageCms.buildTransform(source, ours, image.mode, "RGB"))
    if out is None:
        raise ProfileError
    return out


def _lattice() -> "Image.Image":
    """Return a picture of 6 x 6 x 6 colours."""
    from PIL import Image

    steps = range(0, 256, 51)
    return Image.frombytes("RGB", (216, 1), bytes(c for r in steps for g in steps for b in steps for c in (r, g, b)))


def _near(one: "Image.Image", other: "Image.Image") -> bool:
    """Whether no colour differs by more than rounding: then the profile is sRGB under any name."""
    return max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True)) <= 1


def _curve(transfer: int) -> bytes:
    """Return a transfer function as a profile's `curv` (table) or `para` (sRGB's formula)."""
    if transfer not in {PQ, HLG}:
        numbers = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        return b"para\0\0\0\0\0\3\0\0" + b"".join(map(_fixed, numbers))
    light = _pq if transfer == PQ else _hlg
    most = light(1.0)
    points = [light(index / (_CURVE_POINTS - 1)) for index in range(_CURVE_POINTS)]
    # Reinhard's curve: the brightest light becomes white, and paper white about half of it.
    mapped = [value * (1 + value / most**2) / (1 + value) for value in points]
    table = struct.pack(f">{_CURVE_POINTS}H", *(round(65535 * min(1.0, value)) for value in mapped))
    return b"curv\0\0\0\0" + struct.pack(">I", _CURVE_POINTS) + table


def _pq(signal: float) -> float:
    """SMPTE ST 2084, relative to the reference white; clipped at 1000 nits."""
    root: float = signal ** (1 / 78.84375)
    nits: float = 10_000 * (max(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    return min(nits, 1000.0) / _REFERENCE_WHITE_NITS


def _hlg(signal: float) -> float:
    """ARIB STD-B67 on a screen of 1000 nits, with its gamma applied per channel."""
    scene = signal**2 / 3 if signal <= 0.5 else (math.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return 1000 * math.pow(scene, 1.2) / _REFERENCE_WHITE_NITS


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _icc(primaries: Rows, curve: bytes) -> bytes:
    """Return a matrix profile (ICC.1:2010, version 4) with three primaries and one curve."""

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))

    name = "named by number".encode("utf-16-be")
    text = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(name), 28) + name
    tags = {b"desc": text, b"cprt": text, b"wtpt": xyz(_WHITE_D50)}
    tags |= {key: xyz(values) for key, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, content in tags.items():
        table += key + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I", at + len(body)) + bytes(4) + b"\x04\x30\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    head += b"".join(map(_fixed, _WHITE_D50))
    return head + bytes(128 - len(head)) + table + body
