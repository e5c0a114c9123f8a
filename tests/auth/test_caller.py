"""The caller's identity: every refusal, with a message that repeats nothing, and tickets that outlive an ID token."""

import asyncio
import base64
import gc
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clock import LoopAhead, computed
from tests.support.fakes import TokenUsers
from tests.support.tokens import CLOUD, HOUR, SECRET, claims, new_key, public_of, signed
from worker.api.request import envelope
from worker.auth import caller
from worker.auth.caller import Identity, Users
from worker.auth.tickets import Tickets, request_hash
from worker.core.config import ConfigError, load_settings
from worker.core.errors import BackendError, Forbidden, Internal, JobError, Unauthenticated


def who(*, users: Users | None = None, secret: str | None = SECRET, required: bool = True) -> Identity:
    return Identity(users, Tickets(secret) if secret else None, required=required)


def ask(asked: Identity, token: object, *, acts_for_user: bool = True, **changes: Any) -> None:
    """Identify the caller; raises what the worker would answer. The token is in the input, as in a job."""
    job_input = {**CLOUD, **changes, "id_token": token}
    asyncio.run(asked.check(envelope(job_input), job_input, acts_for_user=acts_for_user))


def now(offset: float) -> int:
    return int(time.time() + offset)


# -- tickets


def test_a_ticket_for_this_user_file_and_request_is_taken() -> None:
    ask(who(), signed(claims()))


def test_a_ticket_is_right_after_a_day_in_the_queue() -> None:
    made = now(-24 * HOUR)
    ask(who(), signed(claims(iat=made, exp=made + 25 * HOUR)))


def test_clocks_may_differ_by_seconds() -> None:
    ask(who(), signed(claims(exp=now(-5), iat=now(-HOUR))))
    ask(who(), signed(claims(iat=now(5))))


REFUSED: dict[str, tuple[Callable[[], str], type[JobError], str]] = {
    "expired": (lambda: signed(claims(exp=now(-60), iat=now(-HOUR))), Unauthenticated, "has expired"),
    "from the future": (lambda: signed(claims(iat=now(600))), Unauthenticated, "from the future"),
    "not yet": (lambda: signed(claims(nbf=now(600))), Unauthenticated, "from the future"),
    "for longer than 25 h": (lambda: signed(claims(exp=now(26 * HOUR))), Unauthenticated, "at most 25 hours"),
    "for ever": (lambda: signed(claims(exp=10**18)), Unauthenticated, "at most 25 hours"),
    "without an end": (lambda: signed(claims(exp=...)), Unauthenticated, "not valid for this worker"),
    "exp is no number": (lambda: signed(claims(exp="tomorrow")), Unauthenticated, "not valid for this worker"),
    "exp is infinite": (lambda: signed(claims(exp=float("inf"))), Unauthenticated, "not valid for this worker"),
    "exp is null": (lambda: signed(claims(exp=None)), Unauthenticated, "not valid for this worker"),
    "exp is a string of digits": (lambda: signed(claims(exp=str(now(60)))), Unauthenticated, "not valid for this"),
    "without a beginning": (lambda: signed(claims(iat=...)), Unauthenticated, "not valid for this worker"),
    "another audience": (lambda: signed(claims(aud="other")), Unauthenticated, "not valid for this worker"),
    "two audiences": (lambda: signed(claims(aud=["generation-worker", "x"])), Unauthenticated, "not valid for"),
    "no audience": (lambda: signed(claims(aud=...)), Unauthenticated, "not valid for this worker"),
    "another secret": (
        lambda: signed(claims(), key=SECRET[::-1].encode()),
        Unauthenticated,
        "not valid for this worker",
    ),
    "no signature": (lambda: signed(claims()).rpartition(".")[0] + ".", Unauthenticated, "not valid for this worker"),
    "changed payload": (
        lambda: signed(claims()).split(".")[0] + "." + ".".join(signed(claims(sub="x"), key=b"k" * 32).split(".")[1:]),
        Unauthenticated,
        "not valid for this worker",
    ),
    "a list for claims": (lambda: signed(["user"]), Unauthenticated, "not valid for this worker"),
    "critical extensions": (lambda: signed(claims(), crit=["x"], x=1), Unauthenticated, "not valid"),
    "another user": (lambda: signed(claims(sub="mallory")), Forbidden, "user_id: must be the user"),
    "no user": (lambda: signed(claims(sub=...)), Unauthenticated, "not valid for this worker"),
    "a number for a user": (lambda: signed(claims(sub=5)), Unauthenticated, "not valid for this worker"),
    "another file": (lambda: signed(claims(file_uid="other")), Forbidden, "file_uid: must be the one"),
    "any file": (lambda: signed(claims(file_uid=True)), Forbidden, "file_uid: must be the one"),
    "no file": (lambda: signed(claims(file_uid=...)), Unauthenticated, "not valid for this worker"),
    "another request": (lambda: signed(claims(request_hash="0" * 64)), Forbidden, "made for another request"),
    "any request": (lambda: signed(claims(request_hash=["x"])), Forbidden, "made for another request"),
    "no request": (lambda: signed(claims(request_hash=...)), Unauthenticated, "not valid for this worker"),
    "upper-case hash": (
        lambda: signed(claims(request_hash=request_hash(CLOUD).upper())),
        Forbidden,
        "made for another request",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_wrong_ticket_is_refused_in_words_that_repeat_nothing_of_it(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    make, error, says = REFUSED[kind]
    token = make()
    with pytest.raises(error, match=says) as caught:
        ask(who(users=TokenUsers()), token)
    assert caught.value.__cause__ is None
    for secret in (SECRET, *(part for part in token.split(".") if len(part) > 8)):
        assert secret not in f"{caught.value!r} {caught.value} {caplog.text}"


@pytest.mark.parametrize("algorithm", ["none", "None", "HS384", "HS512", "RS256", "ES256", "", None, 5, ["HS256"]])
def test_another_algorithm_is_no_ticket_and_firebase_is_asked_instead(algorithm: Any) -> None:
    """Correctly signed with our secret under another declared algorithm: only the worker chooses the algorithm."""
    token = signed(claims(), alg=algorithm)
    with pytest.raises(Unauthenticated, match="not valid for this project"):
        ask(who(users=TokenUsers()), token)
    with pytest.raises(Unauthenticated, match="cannot check an id_token"):
        ask(who(users=None), token)


def test_a_public_key_is_no_secret() -> None:
    """The classic confusion: HS256 over a public key that everybody has."""
    with pytest.raises(Unauthenticated, match="not valid for this worker"):
        ask(who(users=TokenUsers()), signed(claims(), key=public_of(new_key()).encode()))


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("users", [TokenUsers(), None])
def test_without_a_secret_no_ticket_is_taken(users: TokenUsers | None, required: bool) -> None:
    with pytest.raises(Unauthenticated, match="TICKET_SECRET"):
        ask(who(users=users, secret=None, required=required), signed(claims()))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a fox "},
        {"seed": 8},
        {"seed": "7"},
        {"num_images": 4},
        {"use_cloud_storage": False},
        {"negative_prompt": None},
        {"unknown": 1},
        {"prompt": "\ud800"},
        {"seed": 2**53},
        {"seed": 10**400},
        {"guidance_scale": float("nan")},
        {"\ud800": 1},
    ],
    ids=lambda change: repr(change)[:40],
)
def test_a_changed_input_needs_a_new_ticket(change: dict[str, Any]) -> None:
    with pytest.raises(Forbidden, match="ticket in id_token"):
        ask(who(), signed(claims()), **change)


def test_an_input_nested_without_end_has_no_ticket() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(Forbidden, match="no canonical form"):
        ask(who(), signed(claims()), prompt=deep)


def test_the_hash_is_over_canonical_json_without_the_token() -> None:
    """RFC 8785: keys in order, numbers as ECMAScript writes them, UTF-8; the example of its section 3.2.2."""
    rfc = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "€$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    canonical = (
        r'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        r'"string":"€$\u000f\nA' + "'" + r'B\"\\\\\"/"}'
    )
    expected = hashlib.sha256(canonical.encode()).hexdigest()
    assert request_hash(rfc) == expected
    assert request_hash({**rfc, "id_token": "anything"}) == expected


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)


@given(st.dictionaries(TEXT, VALUES, max_size=8))
def test_json_written_anew_in_another_order_has_the_same_hash(job_input: dict[str, Any]) -> None:
    anew = json.loads(json.dumps(dict(reversed(job_input.items())), ensure_ascii=False))
    assert request_hash(anew) == request_hash(job_input)
    assert request_hash({**job_input, "one more": 1}) != request_hash({**job_input, "one more": 2})


def test_a_source_picture_of_megabytes_is_hashed_quickly() -> None:
    job_input = {**CLOUD, "image_url": "data:image/png;base64," + "iVBORw0K" * 1_000_000}
    hashes: list[str] = []
    assert computed(lambda: hashes.append(request_hash(job_input))) < 2
    assert hashes != [request_hash(CLOUD)]


# -- ID tokens


def test_an_id_token_of_the_user_is_taken() -> None:
    for secret in (SECRET, None):
        ask(who(users=TokenUsers(), secret=secret), "token-of-user")


def test_an_id_token_of_somebody_else_is_forbidden_even_where_none_is_required() -> None:
    for required in (True, False):
        with pytest.raises(Forbidden, match="user_id: must be the user that the id_token belongs to"):
            ask(who(users=TokenUsers(), required=required), "token-of-mallory")


@pytest.mark.parametrize("token", [None, "", "x" * 8193, 5, ["token-of-user"], {"alg": "none"}])
def test_no_token_or_none_that_could_be_one_is_nobody(token: object) -> None:
    with pytest.raises(Unauthenticated):
        ask(who(users=TokenUsers()), token)


@pytest.mark.parametrize(
    "token", ["x", "..", "W10.e30.x", "NQ.NQ.x", "\ud800.\ud800.x", base64.b64encode(b"[" * 5000).decode() + ".e30.x"]
)
def test_garbage_is_nobody(token: str) -> None:
    with pytest.raises(Unauthenticated, match="not valid for this project"):
        ask(who(users=TokenUsers()), token)


def test_a_worker_that_requires_proof_and_can_check_none_takes_nobody() -> None:
    nobody = who(users=None, secret=None)
    assert not nobody.can_check
    for token in (None, "token-of-user"):
        with pytest.raises(Unauthenticated, match="this worker cannot check"):
            ask(nobody, token)
    assert who(users=None).can_check
    assert who(users=TokenUsers(), secret=None).can_check


def test_where_no_proof_is_required_a_job_without_one_is_taken() -> None:
    ask(who(users=TokenUsers(), required=False), None)
    ask(who(users=None, secret=None, required=False), "token-of-anybody")


def test_a_job_for_nobody_needs_no_proof() -> None:
    ask(who(), None, acts_for_user=False)


class Unreachable(TokenUsers):
    """Google does not respond."""

    def uid(self, id_token: str) -> str:
        raise BackendError("auth", "unreachable")


class Silent(TokenUsers):
    """Google responds when it is too late."""

    def __init__(self) -> None:
        self.late = threading.Event()

    def uid(self, id_token: str) -> str:
        assert self.late.wait(10)
        return "user"


@pytest.mark.parametrize("users", [Unreachable(), Silent()])
async def test_what_cannot_be_found_out_in_time_is_neither_yes_nor_no(
    users: Unreachable | Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller, "IDENTITY_SECONDS", 0.05)
    job_input = {**CLOUD, "id_token": "token-of-user"}
    with pytest.raises(Internal, match="try again") as caught:
        await who(users=users).check(envelope(job_input), job_input, acts_for_user=True)
    assert caught.value.retryable
    if isinstance(users, Silent):
        users.late.set()


async def test_a_check_that_waits_for_a_thread_has_all_its_time_when_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files that are encoded may occupy every thread, which refused callers whose tokens are valid."""
    ahead, busy, free = LoopAhead(monkeypatch), ThreadPoolExecutor(1), threading.Event()
    asyncio.get_running_loop().set_default_executor(busy)
    busy.submit(free.wait, 10)
    job_input = {**CLOUD, "id_token": "token-of-user"}
    checking = asyncio.create_task(who(users=TokenUsers()).check(envelope(job_input), job_input, acts_for_user=True))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ahead.seconds += 2 * caller.IDENTITY_SECONDS
    await asyncio.sleep(0)
    free.set()
    await checking


async def test_a_check_whose_job_was_stopped_in_line_is_not_logged_as_unheard(caplog: pytest.LogCaptureFixture) -> None:
    busy, free = ThreadPoolExecutor(1), threading.Event()
    asyncio.get_running_loop().set_default_executor(busy)
    busy.submit(free.wait, 10)
    job_input = {**CLOUD, "id_token": "of nobody"}
    checking = asyncio.create_task(who(users=TokenUsers()).check(envelope(job_input), job_input, acts_for_user=True))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    checking.cancel()
    await asyncio.wait([checking])
    free.set()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    del checking
    gc.collect()
    assert not caplog.messages


# -- settings


def test_the_secret_is_never_shown_and_loses_the_newline_of_its_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKET_SECRET", f"{SECRET}\n")
    settings = load_settings()
    assert SECRET not in f"{settings!r} {settings}"
    assert settings.ticket_secret is not None
    assert settings.ticket_secret.get_secret_value() == SECRET
    assert not settings.check_revoked


@pytest.mark.parametrize("value", ["short-and-secret", "x" * 31, f"short{' ' * 40}"])
def test_a_short_secret_stops_the_worker_at_boot(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKET_SECRET", value)
    with pytest.raises(ConfigError, match="TICKET_SECRET: must have at least 32 characters") as caught:
        load_settings()
    assert "short" not in str(caught.value)
    assert "xxx" not in str(caught.value)
