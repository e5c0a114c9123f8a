"""The sRGB profile that is embedded in files: 480 bytes, always the same.

Written here because littleCMS would put the current date and its own version into it.
"""

import struct
from functools import cache

_XYZ = {
    "wtpt": (0.9642, 1.0, 0.8249),
    "rXYZ": (0.43607, 0.22249, 0.01392),
    "gXYZ": (0.38515, 0.71687, 0.09708),
    "bXYZ": (0.14307, 0.06061, 0.7141),
}
"""D50, and the primaries of ITU-R BT.709 adapted to it, as in the ICC's own sRGB profiles."""
_ADAPTATION = (1.04788, 0.02292, -0.05022, 0.02959, 0.99048, -0.01707, -0.00925, 0.01508, 0.75168)
"""Bradford, from D65 to D50."""
_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""IEC 61966-2-1: g, a, b, c, d of y = (ax + b)^g for x >= d, else y = cx."""


@cache
def profile() -> bytes:
    """Return the profile (ICC.1:2010, version 4.3) of an sRGB display."""
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _numbers(*_CURVE)
    tags = {"desc": _text("sRGB"), "cprt": _text("CC0"), "chad": b"sf32" + bytes(4) + _numbers(*_ADAPTATION)}
    tags |= {name: b"XYZ " + bytes(4) + _numbers(*values) for name, values in _XYZ.items()}
    data, places = b"", {}
    start = 128 + 4 + 12 * (len(tags) + 3)
    for name, value in {**tags, "rTRC": curve}.items():
        places[name] = (start + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    places |= dict.fromkeys(("gTRC", "bTRC"), places["rTRC"])
    table = struct.pack(">I", len(places))
    table += b"".join(name.encode() + struct.pack(">II", *place) for name, place in places.items())
    made = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    head = struct.pack(">I4x4s4s4s4s", start + len(data), b"\4\x30\0\0", b"mntr", b"RGB ", b"XYZ ") + made
    head += b"acsp" + bytes(28) + _numbers(*_XYZ["wtpt"])
    return head + bytes(128 - len(head)) + table + data


def _numbers(*values: float) -> bytes:
    """Encode as s15Fixed16Number."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _text(text: str) -> bytes:
    """Encode as multiLocalizedUnicodeType with one English text."""
    encoded = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(encoded), 28) + encoded
