"""ICC profiles made by hand: for screens, for grey, for a press."""

import struct

Rows = tuple[tuple[float, float, float], ...]

DISPLAY_P3: Rows = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB: Rows = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO: Rows = ((0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.0), (0.03134, 0.00009, 0.82491))
SRGB: Rows = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


def _profile(device: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes], extra: bytes = b"") -> bytes:
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": _xyz((0.9642, 1.0, 0.8249))} | tags
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    body += extra
    head = struct.pack(">I", at + len(body)) + b"none\x02\x10\0\0" + device + space + connection
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(_fixed, (0.9642, 1.0, 0.8249)))
    return head + bytes(128 - len(head)) + table + body


def screen(primaries: Rows = DISPLAY_P3, gamma: float = 2.2, extra: bytes = b"") -> bytes:
    """Return a screen's profile: red, green and blue as XYZ under D50, and one gamma; `extra` is unused data."""
    tags = {name: _xyz(values) for name, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma))
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags, extra)


def grey(gamma: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _gamma(gamma)})


def press() -> bytes:
    """Return a press's profile: four inks to Lab colours, by a table with two points per ink."""
    ramp = bytes(range(256))
    nodes = bytearray()
    for node in range(16):
        cyan, magenta, yellow, black = (node >> 3 & 1, node >> 2 & 1, node >> 1 & 1, node & 1)
        light = (1 - 0.3 * cyan - 0.4 * magenta - 0.1 * yellow) * (1 - 0.9 * black)
        a, b = (-35 * cyan + 75 * magenta - 5 * yellow), (-50 * cyan - 5 * magenta + 90 * yellow)
        nodes += bytes((round(255 * light), round(128 + a * (1 - black)), round(128 + b * (1 - black))))
    matrix = b"".join(map(_fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + 4 * ramp + bytes(nodes) + 3 * ramp
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})
