"""Who asks: whether the caller of a job may act for the user whom it names.

Knows two proofs, both carried in `id_token`: Firebase's ID token of the signed-in user, and a ticket, signed by the
app's backend for one request, which stays right while a job waits in a queue for longer than an ID token lives. Knows
no document and no model, and never logs or repeats a token.
"""

import asyncio
import hmac
from collections.abc import Callable
from typing import Any, Protocol

from worker.api.fingerprint import canonical_sha256
from worker.api.request import Envelope
from worker.core.errors import BackendError, Forbidden, Internal, Unauthenticated

IDENTITY_SECONDS = 6.0
CLOCK_SKEW_SECONDS = 10
TICKET_ALGORITHM = "HS256"
TICKET_AUDIENCE = "generation-worker"
TICKET_CLAIMS = ("aud", "sub", "file_uid", "request_hash", "iat", "exp")
MAX_TICKET_SECONDS = 25 * 3600
"""RunPod keeps a job in its queue for 24 hours unless told otherwise; one more hour for the job itself."""


class Users(Protocol):
    """Who an ID token belongs to."""

    def uid(self, id_token: str) -> str:
        """The user id of a valid token.

        Raises:
            Unauthenticated: it is not valid.
            BackendError: that could not be found out.
        """
        ...


class Tickets:
    """Tickets of the app's backend: JWTs (RFC 7519) with HMAC-SHA256 over a secret that both sides hold."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def check(self, ticket: str, envelope: Envelope, raw_input: object) -> None:
        """Accept a ticket that was made for this user, this file and exactly this input.

        Raises:
            Unauthenticated: no ticket of ours, not valid yet or any more, or valid for longer than 25 hours.
            Forbidden: it was made for another user, file or request.
        """
        claims = self._claims(ticket)
        if not _same(claims["sub"], envelope.user_id):
            raise Forbidden("user_id: must be the user that the ticket in id_token was made for")
        if not _same(claims["file_uid"], envelope.file_uid):
            raise Forbidden("file_uid: must be the one that the ticket in id_token was made for")
        if not _same(claims["request_hash"], request_hash(raw_input)):
            raise Forbidden("the ticket in id_token was made for another request; nothing may be changed after signing")

    def _claims(self, ticket: str) -> dict[str, Any]:
        import jwt

        try:
            claims = jwt.decode(
                ticket,
                self._secret,
                algorithms=[TICKET_ALGORITHM],
                audience=TICKET_AUDIENCE,
                leeway=CLOCK_SKEW_SECONDS,
                options={"require": list(TICKET_CLAIMS), "strict_aud": True},
            )
            lifetime = claims["exp"] - claims["iat"]
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the ticket in id_token has expired; ask the app's backend for a new one") from None
        except jwt.ImmatureSignatureError:
            raise Unauthenticated("the ticket in id_token is from the future; check the backend's clock") from None
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            raise Unauthenticated("the ticket in id_token is not valid for this worker") from None
        if not 0 < lifetime <= MAX_TICKET_SECONDS:
            raise Unauthenticated("the ticket in id_token must be valid for at most 25 hours")
        return claims


class Identity:
    """The one answer to "may this caller do that?". None stands for a proof that this worker cannot check."""

    def __init__(self, users: Users | None, tickets: Tickets | None, *, required: bool) -> None:
        self.users, self.tickets, self.required = users, tickets, required

    @property
    def can_check(self) -> bool:
        """Whether there is any proof that this worker can check."""
        return self.users is not None or self.tickets is not None

    async def check(self, envelope: Envelope, raw_input: object, *, acts_for_user: bool) -> None:
        """Check who asks before anything is read or written for them; a job for nobody needs no proof.

        Args:
            envelope: what the request says of itself; its token is the proof.
            raw_input: the whole `job["input"]` as it came, which a ticket's hash was taken over.
            acts_for_user: whether the job writes or reads what belongs to `user_id`.

        Raises:
            Unauthenticated, Forbidden: the caller may not act for this user.
            Internal: that could not be found out.
        """
        if not acts_for_user:
            return
        token = envelope.id_token
        if token is not None and _is_ticket(token):
            tickets = self.tickets
            if tickets is None:
                raise Unauthenticated("id_token: is a ticket, and this worker takes none (TICKET_SECRET is not set)")
            await _in_thread(lambda: tickets.check(token, envelope, raw_input))
        elif token is not None and self.users is not None:
            users = self.users
            if not _same(await _in_thread(lambda: users.uid(token)), envelope.user_id):
                raise Forbidden("user_id: must be the user that the id_token belongs to")
        elif self.required and token is not None:
            raise Unauthenticated("this worker cannot check an id_token: no Firebase")
        elif self.required:
            raise Unauthenticated if self.can_check else Unauthenticated("this worker cannot check who asks")


def request_hash(raw_input: object) -> str:
    """SHA-256, in hex, over the canonical JSON (RFC 8785) of a job's input without `id_token`.

    Canonical JSON has one way to write a number and one order of keys: the platform may write the JSON anew on its way.

    Raises:
        Forbidden: no JSON that RFC 8785 can write (a lone surrogate, an integer past 2^53), so nobody signed it.
    """
    signed = (
        {key: value for key, value in raw_input.items() if key != "id_token"} if isinstance(raw_input, dict) else {}
    )
    try:
        return canonical_sha256(signed)
    except (ValueError, RecursionError):
        raise Forbidden("the ticket in id_token cannot be for this request: it has no canonical form") from None


def _is_ticket(token: str) -> bool:
    """By the algorithm in the header, which says only who is to check it: Firebase signs with RS256."""
    import jwt

    try:
        return jwt.get_unverified_header(token).get("alg") == TICKET_ALGORITHM
    except (jwt.PyJWTError, ValueError, RecursionError):
        return False


def _same(claimed: object, asked: str | None) -> bool:
    """Whether both are the same string, in a time that does not tell how much of it is."""
    if not isinstance(claimed, str) or asked is None:
        return False
    return hmac.compare_digest(claimed.encode(errors="surrogatepass"), asked.encode(errors="surrogatepass"))


async def _in_thread(check: Callable[[], Any]) -> Any:
    """The answer of a check that may ask Google or hash megabytes, bounded in time."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(check), IDENTITY_SECONDS)
    except (BackendError, TimeoutError):
        raise Internal("the id_token could not be checked right now; try again") from None
