"""Signing certificates of an authority that nobody trusts, optionally with a defect."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def pem_of(key: Key) -> str:
    written = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return written.decode()


def certificate(key: Key | None = None, *, days: int = 30, use: x509.ObjectIdentifier | None = None) -> tuple[str, str]:
    """Return the chain and the key in PEM, valid for `days` from now."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), key or ec.generate_private_key(ec.SECP256R1())
    root = _made("An authority", "An authority", root_key, root_key, days=days)
    usage = use or ExtendedKeyUsageOID.EMAIL_PROTECTION
    leaf = _made("An app", "An authority", key, root_key, days=days, usage=usage)
    chain = "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in (leaf, root))
    return chain, pem_of(key)


def _made(
    subject: str, issuer: str, key: Key, by: Key, *, days: int, usage: x509.ObjectIdentifier | None = None
) -> x509.Certificate:
    names = [x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)]) for name in (subject, issuer)]
    authority, now = usage is None, datetime.now(UTC)
    may = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    may |= {"digital_signature": not authority, "key_cert_sign": authority, "crl_sign": authority}
    builder = (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**may, encipher_only=False, decipher_only=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(by, hashes.SHA256())
