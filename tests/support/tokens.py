"""Tickets and Firebase ID tokens made by hand, so that they can be wrong in ways that a library refuses to produce."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

from worker.auth.tickets import request_hash

SECRET = "shared with the app's backend, 32+"
HOUR = 3600
PROJECT = "demo-project"
CLOUD = {"prompt": "a fox", "use_cloud_storage": True, "user_id": "user", "file_uid": "file", "seed": 7}
"""A job with an owner."""


def part(value: object) -> str:
    """Return one of a token's parts; bytes stay as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def claims(job_input: dict[str, Any] = CLOUD, **changes: Any) -> dict[str, Any]:
    """Return the claims that a backend signs for a job; `...` removes one."""
    now = int(time.time())
    made = {
        "aud": "generation-worker",
        "sub": job_input["user_id"],
        "file_uid": job_input["file_uid"],
        "request_hash": request_hash(job_input),
        "iat": now - 5,
        "exp": now + HOUR,
        **changes,
    }
    return {name: value for name, value in made.items() if value is not ...}


def signed(payload: object, *, key: bytes = SECRET.encode(), **header: Any) -> str:
    """Return a ticket."""
    return hashed({"alg": "HS256", "typ": "JWT", **header}, payload, key)


def hashed(header: object, payload: object, key: bytes = SECRET.encode()) -> str:
    """Return a token signed with HS256, whatever the header says."""
    body = f"{part(header)}.{part(payload)}"
    return f"{body}.{part(hmac.new(key, body.encode(), hashlib.sha256).digest())}"


def new_key(bits: int = 2048) -> str:
    """Return a private key as a service account has one."""
    options = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return rsa.generate_private_key(public_exponent=65537, key_size=bits).private_bytes(*options).decode()


def public_of(pem: str) -> str:
    """Return the public half of such a key."""
    public = serialization.load_pem_private_key(pem.encode(), None).public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def user_claims(project: str = PROJECT, **changes: Any) -> dict[str, Any]:
    """Return the claims of Firebase's token for a user."""
    now = int(time.time())
    made = {"iss": f"https://securetoken.google.com/{project}", "aud": project, "sub": "user", "auth_time": now - 5}
    return {**made, "iat": now - 5, "exp": now + HOUR, **changes}


def user_token(pem: str, **changes: Any) -> str:
    """Return a token signed with this key, which stands for Google's."""
    signer: Any = crypt.RSASigner  # google-auth is partly typed
    encode: Any = jwt.encode
    return str(encode(signer.from_string(pem, "key-1"), user_claims(**changes)).decode())


def unsigned(header: object, payload: object, signature: bytes = b"") -> str:
    """Return a token with these bytes as its signature."""
    return f"{part(header)}.{part(payload)}.{part(signature)}"
