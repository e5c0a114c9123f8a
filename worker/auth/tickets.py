"""Verifies tickets: proof that the app's backend signed exactly this request of this user.

A ticket is a JWT (RFC 7519) with HMAC-SHA256 and a shared secret. Never logs or repeats a ticket.
"""

import hmac
from typing import Any

from worker.api.fingerprint import canonical_sha256
from worker.api.request import Envelope
from worker.core.errors import Forbidden, Unauthenticated

CLOCK_SKEW_SECONDS = 10
TICKET_ALGORITHM = "HS256"

TICKET_AUDIENCE = "generation-worker"

TICKET_CLAIMS = ("aud", "sub", "file_uid", "request_hash", "iat", "exp")

MAX_TICKET_SECONDS = 25 * 3600
"""RunPod keeps a job queued for 24 hours by default; the job itself gets one more hour."""


class Tickets:
    """The verifier of tickets signed with one secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def check(self, ticket: str, envelope: Envelope, raw_input: object) -> bool:
        """Verify that a ticket was made for this user, this `file_uid` and exactly this input.

        Returns:
            Whether the backend has seen the user's order slip, which must then still exist.

        Raises:
            Unauthenticated: the ticket is not ours, not yet valid, expired, or valid for longer than 25 hours.
            Forbidden: it was made for another user, `file_uid` or request.
        """
        claims = self._claims(ticket)
        if not same(claims["sub"], envelope.user_id):
            raise Forbidden("forbidden.ticket_user")
        if not same(claims["file_uid"], envelope.file_uid):
            raise Forbidden("forbidden.ticket_file")
        if not same(claims["request_hash"], request_hash(raw_input)):
            raise Forbidden("forbidden.ticket_request")
        return claims.get("slip") is True

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
            raise Unauthenticated("unauthenticated.ticket_expired") from None
        except jwt.ImmatureSignatureError:
            raise Unauthenticated("unauthenticated.ticket_early") from None
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            raise Unauthenticated("unauthenticated.ticket_invalid") from None
        if not 0 < lifetime <= MAX_TICKET_SECONDS:
            raise Unauthenticated("unauthenticated.ticket_lifetime")
        return claims


def request_hash(raw_input: object) -> str:
    """Return the SHA-256, in hex, of the canonical JSON (RFC 8785) of a job's input without `id_token`.

    Canonical, because the platform may serialise the JSON again on its way.

    Raises:
        Forbidden: the input has no canonical form (a lone surrogate, an integer past 2^53), so it was never signed.
    """
    signed = (
        {key: value for key, value in raw_input.items() if key != "id_token"} if isinstance(raw_input, dict) else {}
    )
    try:
        return canonical_sha256(signed)
    except (ValueError, RecursionError):
        raise Forbidden("forbidden.ticket_form") from None


def is_ticket(token: str) -> bool:
    """Whether a token is a ticket, by its header's algorithm: Firebase signs with RS256. Verifies nothing."""
    import jwt

    try:
        return jwt.get_unverified_header(token).get("alg") == TICKET_ALGORITHM
    except (jwt.PyJWTError, ValueError, RecursionError):
        return False


def same(claimed: object, asked: str | None) -> bool:
    """Compare two strings in constant time."""
    if not isinstance(claimed, str) or asked is None:
        return False
    return hmac.compare_digest(claimed.encode(errors="surrogatepass"), asked.encode(errors="surrogatepass"))
