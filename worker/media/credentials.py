"""Signs files with Content Credentials (C2PA 2.x), which state that they were made by AI.

Signing is the last step and covers the whole file; pixels and AI mark stay unchanged. Knows certificates and files;
knows no request, and writes nothing of one. https://spec.c2pa.org/specifications/
"""

import io
import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from worker.core.config import ConfigError, Settings
from worker.core.pasted import pem
from worker.media.artifact import CONTENT_TYPES, Artifact
from worker.media.mark import TYPES, Origin

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

NOT_SIGNED = "content credentials: a file could not be signed, and has its mark alone"
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----(.*?)-----END \1-----", re.DOTALL)
_CURVES = {256: b"es256", 384: b"es384", 521: b"es512"}
_UNKNOWN_ROOT = "signingCredential.untrusted"
"""What any certificate is told that stands in no list of those who read it: here there is none."""
_SETTINGS = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}

log = logging.getLogger(__name__)


class NotSignedError(Exception):
    """A file could not be signed."""


class Signer:
    """The operator's certificate and key. Thread-safe; a signature takes about ten milliseconds."""

    def __init__(self, chain: str, key: str, algorithm: bytes) -> None:
        self._chain, self._key, self._algorithm = chain, key, algorithm

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Make the signer that the settings name, and test it; None if they name none.

        Raises:
            ConfigError: files cannot be signed with it; the message names the variable.
        """
        certificate, secret = settings.c2pa_certificate, settings.c2pa_key
        if certificate is None and secret is None:
            return None
        if certificate is None or secret is None:
            given, other = ("C2PA_KEY", "C2PA_CERTIFICATE") if certificate is None else ("C2PA_CERTIFICATE", "C2PA_KEY")
            raise ConfigError(f"{other}: is not set, and {given} is; a file is signed with both")
        chain = "".join(_blocks("C2PA_CERTIFICATE", certificate, "CERTIFICATE"))
        key, algorithm = _read_key(_blocks("C2PA_KEY", secret.get_secret_value(), "PRIVATE KEY")[0])
        signer = cls(chain, key, algorithm)
        signer._try()
        return signer

    def sign(self, file: Artifact, origin: Origin) -> Artifact:
        """Return the file with its credentials.

        Raises:
            NotSignedError: it cannot be signed; the original file is unchanged.
        """
        import c2pa

        action = {"action": "c2pa.created", "digitalSourceType": TYPES[origin]}
        manifest = {
            "claim_generator_info": [{"name": "generation-worker"}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        signed = io.BytesIO()
        try:
            info = c2pa.C2paSignerInfo(self._algorithm, self._chain.encode(), self._key.encode(), None)
            with (
                c2pa.Context.from_dict(_SETTINGS) as context,
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder(manifest, context) as builder,
            ):
                builder.sign(signer, file.content_type, io.BytesIO(file.data), signed)
        except (c2pa.C2paError, OSError, ValueError, RuntimeError) as error:
            log.warning("a file is not signed: %s", type(error).__name__, extra={"action": "not_signed"})
            raise NotSignedError from error
        data = signed.getvalue()
        return replace(file, data=data, size=len(data))

    def _try(self) -> None:
        """Sign a one-pixel picture and read it back, so that a bad certificate fails at the start."""
        import c2pa
        from PIL import Image

        out = io.BytesIO()
        Image.new("RGB", (1, 1)).save(out, "PNG")
        kind = CONTENT_TYPES["png"]
        try:
            signed = self.sign(Artifact.encoded(out.getvalue(), kind, 1, 1), "generated")
            with c2pa.Reader(kind, io.BytesIO(signed.data)) as reader:
                said: dict[str, Any] = json.loads(reader.json())
        except (NotSignedError, c2pa.C2paError) as error:
            raise ConfigError(
                "C2PA_CERTIFICATE: nothing can be signed with it and C2PA_KEY: it must be the certificate of that key, "
                "with those above it, for signing (digitalSignature; emailProtection or documentSigning), and nobody's "
                "authority"
            ) from error
        wrong = {str(one.get("code")) for one in said.get("validation_status", ())} - {_UNKNOWN_ROOT}
        if "signingCredential.expired" in wrong:
            raise ConfigError("C2PA_CERTIFICATE: has expired, or is not valid yet")
        if wrong:
            raise ConfigError(f"C2PA_CERTIFICATE: what it signs is not valid ({', '.join(sorted(wrong))})")


def _blocks(variable: str, text: str, label: str) -> list[str]:
    """Return the blocks of a PEM (RFC 7468), pasted or from a file, whose label ends with `label`."""
    if "-----BEGIN" not in text:
        try:
            text = Path(text).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError, RuntimeError):
            raise ConfigError(f"{variable}: is neither PEM nor the path of a file that can be read") from None
    found = [pem(one) for one in _PEM.finditer(text) if one[1].endswith(label)]
    if not found:
        raise ConfigError(f"{variable}: has no {label.lower()} in PEM (-----BEGIN {label}-----)")
    return found


def _read_key(pem: str) -> tuple[str, bytes]:
    """Return the key as PKCS #8, and the C2PA algorithm for its type."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError("C2PA_KEY: is no private key in PEM that can be read; it must have no password") from None
    algorithm = _algorithm(key)
    if algorithm is None:
        raise ConfigError("C2PA_KEY: must be of ECDSA (P-256, P-384 or P-521), Ed25519, or RSA with 2048 bits or more")
    plain = serialization.NoEncryption()
    written = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return written.decode(), algorithm


def _algorithm(key: "PrivateKeyTypes") -> bytes | None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _CURVES.get(key.curve.key_size)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    return b"ps256" if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048 else None
