"""The machine-readable AI mark of a file: an XMP packet with IPTC's digital source type.

Search engines, social networks and editors read it (https://iptc.org/std/photometadata/documentation/userguide/, "AI
generated content"). It says how the file came to be and which generation it is, never what was asked for. Knows the
packet and the box that carries it in an MP4; the image encoders have their own place for it.
"""

import struct
import uuid
from typing import Literal

from worker.api.request import Request

Origin = Literal["generated", "composite"]
"""Made by a model alone, or from a source picture."""

_CV = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TYPES: dict[Origin, str] = {
    "generated": _CV + "trainedAlgorithmicMedia",
    "composite": _CV + "compositeWithTrainedAlgorithmicMedia",
}
_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"{identified}>
<Iptc4xmpExt:DigitalSourceType>{type}</Iptc4xmpExt:DigitalSourceType>
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
_XMP_BOX = uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac")
"""The UUID of the XMP box in an MP4: XMP specification part 3, section 1.1.5."""


def packet(made: Origin, file_uid: str | None = None) -> bytes:
    """Return the XMP packet. `file_uid` (letters, digits, `_` and `-` only) becomes the `dc:identifier`."""
    identified = ""
    if file_uid is not None:
        identified = f' xmlns:dc="http://purl.org/dc/elements/1.1/" dc:identifier="{file_uid}"'
    return _PACKET.format(identified=identified, type=TYPES[made]).encode()


def origin(request: Request) -> Origin:
    """Return the origin of a request's result."""
    return "composite" if "image_url" in request.pictures() else "generated"


def packet_for(request: Request) -> bytes:
    """Return the packet for a request's files."""
    return packet(origin(request), request.file_uid)


def mp4_box(xmp: bytes) -> bytes:
    """Return the MP4 box of a packet. It is appended, so that all earlier offsets stay valid."""
    return struct.pack(">I4s16s", 24 + len(xmp), b"uuid", _XMP_BOX.bytes) + xmp
