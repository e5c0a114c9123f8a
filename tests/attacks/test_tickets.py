"""Tickets of the app's backend under attack: forged, expired, or for another user or job.

Rows 66 to 69 of the table. `tests/auth/test_caller.py` shows how a valid ticket is made and read.
"""

import base64
import io
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.attacked_world import GOOD, World, note
from tests.support.examples import examples
from tests.support.tokens import HOUR, SECRET, claims, hashed, part, signed
from worker.auth.tickets import MAX_TICKET_SECONDS, Tickets, request_hash

FORGED = (66, "forged tickets")
UNTIMELY = (67, "tickets of another time")
FOREIGN = (68, "tickets for another user, file or request")
REPLAYED = (69, "a ticket used again")
VARIANTS = examples(40)


@pytest.fixture(scope="module")
def ticketed(log: io.StringIO) -> Iterator[World]:
    """Yield a worker that requires proof of every user, and accepts tickets."""
    made = World(log, tickets=Tickets(SECRET), token=lambda job: signed(claims(job)), require_id_token=True)
    yield made
    made.good()
    made.close()


def refuse(
    world: World, row: tuple[int, str], token: object, *codes: str, changes: dict[str, Any] | None = None
) -> None:
    """Check that the worker rejects the token, writes nothing, and repeats none of it."""
    job = {**GOOD, **(changes or {}), "id_token": token}
    response = world.attack(row, job, *(codes or ("unauthenticated",)), proven=False)
    for secret in (SECRET, *(piece for piece in str(token).split(".") if len(piece) > 12)):
        assert secret not in response["error"]
        assert secret not in world.log.getvalue()


def test_a_forged_ticket_is_nobodys(ticketed: World) -> None:
    good = signed(claims())
    head, payload, signature = good.split(".")
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    options = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public = private.public_key().public_bytes(*options)
    rs_body = f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{payload}"
    rs = private.sign(rs_body.encode(), padding.PKCS1v15(), SHA256())
    jwk = {"kty": "oct", "k": part(b"mine" * 8)}
    tokens = {
        "another secret": signed(claims(), key=SECRET[::-1].encode()),
        "an empty secret": signed(claims(), key=b""),
        "a secret cut short": signed(claims(), key=SECRET[:-1].encode()),
        "a secret with its newline": signed(claims(), key=SECRET.encode() + b"\n"),
        "HS256 over a public key": signed(claims(), key=public),
        "RS256 of one's own": f"{rs_body}.{part(rs)}",
        "an RS256 signature under an HS256 header": f"{head}.{payload}.{part(rs)}",
        "HS256's signature under an RS256 header": f"{rs_body}.{signature}",
        "alg none": f"{part({'alg': 'none'})}.{payload}.",
        "alg nOnE": f"{part({'alg': 'nOnE'})}.{payload}.",
        "alg none, signed": hashed({"alg": "none"}, claims()),
        "alg empty": hashed({"alg": ""}, claims()),
        "alg null": hashed({"alg": None}, claims()),
        "alg a list": hashed({"alg": ["HS256"]}, claims()),
        "alg in lower case": hashed({"alg": "hs256"}, claims()),
        "alg HS512": hashed({"alg": "HS512"}, claims()),
        "no alg": hashed({"typ": "JWT"}, claims()),
        "a key of its own": hashed({"alg": "HS256", "jwk": jwk}, claims(), b"mine" * 8),
        "a key by URL": hashed({"alg": "HS256", "jku": "https://evil.example/keys"}, claims(), b"x"),
        "a key by path": hashed({"alg": "HS256", "kid": "../../dev/null"}, claims(), b""),
        "critical extensions": hashed({"alg": "HS256", "crit": ["exp"], "exp": 1}, claims()),
        "payload not encoded": hashed({"alg": "HS256", "b64": False, "crit": ["b64"]}, claims()),
        "no signature": f"{head}.{payload}.",
        "no signature and no dot": f"{head}.{payload}",
        "half a signature": f"{head}.{payload}.{signature[:21]}",
        "a longer signature": f"{good}{signature}",
        "four parts": f"{good}.{signature}",
        "another payload": f"{head}.{part(claims(sub='victim'))}.{signature}",
        "the payload twice": f"{payload}.{payload}.{signature}",
        "a header that is a list": f"{part([])}.{payload}.{signature}",
        "a header that is a string": f"{part('HS256')}.{payload}.{signature}",
        "a deep header": f"{part(b'[' * 3000)}.{payload}.{signature}",
        "a payload that is a list": signed(["user"]),
        "a payload that is a string": signed("user"),
        "a deep payload": signed(b"[" * 3000),
        "no JSON": signed(b"{"),
        "not UTF-8": signed(b"\xff\xfe"),
        "not ASCII": good.replace(".", "․"),
        "full-width": good.translate({ord(c): ord(c) + 0xFEE0 for c in "eyJ"}),
        "NUL in the middle": f"{head}.\x00{payload}.{signature}",
        "dots": "..",
        "words": "the ticket, please",
    }
    for token in tokens.values():
        refuse(ticketed, FORGED, token)
    for length in range(1, len(good), 37):
        refuse(ticketed, FORGED, good[:length])
    for large in (signed(claims(x="x" * 9000)), good + "A" * 8192, "." * 9000):
        refuse(ticketed, FORGED, large, "invalid_input")
    ticketed.good()


def test_a_ticket_of_another_time_is_refused(ticketed: World) -> None:
    now = int(time.time())
    times: list[dict[str, Any]] = [
        {"iat": now - 2 * HOUR, "exp": now - HOUR},
        {"iat": now - 60, "exp": now - 15},
        {"exp": 0},
        {"exp": -1},
        {"iat": now + HOUR, "exp": now + 2 * HOUR},
        {"nbf": now + HOUR},
        {"exp": now + MAX_TICKET_SECONDS + 60},
        {"exp": 10**12},
        {"exp": 10**400},
        {"exp": 1e308},
        {"exp": math.inf},
        {"exp": math.nan},
        {"iat": 0},
        {"iat": -(10**12)},
        {"iat": math.nan},
        {"iat": now + 5, "exp": now + 5},
        {"iat": now, "exp": now - 5},
        {"exp": ...},
        {"iat": ...},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": str(now + HOUR)},
        {"exp": [now + HOUR]},
        {"exp": True},
        {"iat": {"now": now}},
    ]
    for changes in times:
        refuse(ticketed, UNTIMELY, signed(claims(**changes)))
    ticketed.good()


def test_a_ticket_for_somebody_or_something_else_is_refused(ticketed: World) -> None:
    for changes, code in (
        ({"sub": "mallory"}, "forbidden"),
        ({"sub": "User"}, "forbidden"),
        ({"sub": "user\x00"}, "forbidden"),
        ({"sub": ""}, "forbidden"),
        ({"sub": "ｕser"}, "forbidden"),
        ({"sub": ["user"]}, "unauthenticated"),
        ({"sub": ...}, "unauthenticated"),
        ({"file_uid": "other"}, "forbidden"),
        ({"file_uid": "*"}, "forbidden"),
        ({"file_uid": ["file"]}, "forbidden"),
        ({"file_uid": None}, "unauthenticated"),
        ({"file_uid": ...}, "unauthenticated"),
        ({"request_hash": "0" * 64}, "forbidden"),
        ({"request_hash": ""}, "forbidden"),
        ({"request_hash": request_hash(GOOD).upper()}, "forbidden"),
        ({"request_hash": request_hash(GOOD)[:32]}, "forbidden"),
        ({"request_hash": request_hash({})}, "forbidden"),
        ({"request_hash": True}, "forbidden"),
        ({"request_hash": ...}, "unauthenticated"),
        ({"aud": "other"}, "unauthenticated"),
        ({"aud": ["generation-worker"]}, "unauthenticated"),
        ({"aud": ...}, "unauthenticated"),
    ):
        refuse(ticketed, FOREIGN, signed(claims(**changes)), code)
    ticketed.good()


def test_a_ticket_used_for_another_generation_reaches_nothing(ticketed: World) -> None:
    """Overheard, or kept by its own user: it is valid for one file and one request, however often it is sent."""
    ticket = signed(claims())
    for changes in (
        {"file_uid": "second"},
        {"user_id": "victim"},
        {"user_id": "victim", "file_uid": "theirs"},
        {"prompt": "another fox"},
        {"seed": 8},
        {"num_images": 4},
        {"negative_prompt": ""},
        {"task_type": "text2video"},
        {"output_format": "webp"},
        {"seed": 2**31 + 0.0},
    ):
        refuse(ticketed, REPLAYED, ticket, "forbidden", changes=changes)
    ticketed.forget()
    before = ticketed.bucket.uploads
    responses = ticketed.ask_at_once([{**GOOD, "id_token": ticket}] * 20)
    codes = [response.get("error_code", "completed") for response in responses]
    assert set(codes) <= {"completed", "duplicate_in_progress"}
    assert ticketed.bucket.uploads == before + 1
    assert len(ticketed.paths) == 1
    note(REPLAYED, refused=codes.count("duplicate_in_progress"), harmless=codes.count("completed"))
    ticketed.good()


def test_without_a_secret_no_ticket_is_taken(log: io.StringIO) -> None:
    without = World(log, token=lambda job: f"token-of-{job['user_id']}", require_id_token=True)
    for token in (signed(claims()), signed(claims(), key=b""), signed(claims(), key=b"None")):
        refuse(without, FORGED, token)
    without.good()
    without.close()


# --- variants ---------------------------------------------------------------------------------------------------------


def _bytes(signature: str) -> bytes:
    """Decode a signature as a lenient reader does: characters that are not base64, and unused bits, are dropped."""
    kept = "".join(c for c in signature if c.isascii() and (c.isalnum() or c in "-_"))
    return base64.urlsafe_b64decode(kept[: len(kept) // 4 * 4 + (len(kept) % 4 if len(kept) % 4 != 1 else 0)] + "==")


@VARIANTS
@given(data=st.data())
def test_no_ticket_that_was_changed_anywhere_is_taken(ticketed: World, data: st.DataObject) -> None:
    good = signed(claims())
    start = data.draw(st.integers(0, len(good) - 1))
    end = data.draw(st.integers(start, min(len(good), start + 40)))
    text = st.text("ABCabc019-_.=\n\x00é", max_size=8) | st.text(max_size=3)
    changed = good[:start] + data.draw(text) + good[end:]
    assume(changed)
    body, _, signature = changed.rpartition(".")
    assume(body != good.rpartition(".")[0] or _bytes(signature) != _bytes(good.rpartition(".")[2]))
    refuse(ticketed, FORGED, changed, "unauthenticated", "invalid_input")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@VARIANTS
@given(header=JSON | st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk", "zip"]), JSON))
def test_no_header_talks_the_worker_into_another_key(ticketed: World, header: object) -> None:
    refuse(ticketed, FORGED, hashed(header, claims(), b"mine" * 8))
    alg = header.get("alg") if isinstance(header, dict) else None
    assume(alg != "HS256")
    refuse(ticketed, FORGED, hashed(header, claims()))


@VARIANTS
@given(name=st.sampled_from(["aud", "sub", "file_uid", "request_hash"]), value=JSON)
def test_no_other_claim_will_do(ticketed: World, name: str, value: Any) -> None:
    assume(value != claims()[name])
    refuse(ticketed, FOREIGN, signed(claims(**{name: value})), "unauthenticated", "forbidden")


@VARIANTS
@given(
    iat=JSON | st.integers(-(10**12), 10**12).map(lambda offset: int(time.time()) + offset),
    exp=JSON | st.integers(-(10**12), 10**12).map(lambda offset: int(time.time()) + offset),
)
def test_no_other_times_will_do(ticketed: World, iat: Any, exp: Any) -> None:
    now = time.time()
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in (iat, exp))
    assume(not numbers or not (iat <= now + 60 and exp >= now - 60 and 0 < exp - iat <= MAX_TICKET_SECONDS))
    refuse(ticketed, UNTIMELY, signed(claims(iat=iat, exp=exp)))


@VARIANTS
@given(name=st.sampled_from([*GOOD, "num_images", "width", "status"]) | st.text(max_size=12), value=JSON)
def test_nothing_of_a_request_may_change_after_it_was_signed(ticketed: World, name: str, value: object) -> None:
    changed = {**GOOD, name: value}
    assume(name not in {"id_token", "use_cloud_storage"})
    assume(json.dumps(changed, sort_keys=True) != json.dumps(GOOD, sort_keys=True))
    assume(not (isinstance(value, float) and value == GOOD.get(name)))  # JSON has only one number 7
    codes = ("forbidden", "invalid_input", "unauthenticated")
    refuse(ticketed, REPLAYED, signed(claims()), *codes, changes={name: value})
