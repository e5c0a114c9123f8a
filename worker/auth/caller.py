"""Who asks: whether the caller of a job may act for the user whom it names.

Knows two proofs, both carried in `id_token`: Firebase's ID token of the signed-in user, and a ticket, signed by the
app's backend for one request, which stays right while a job waits in a queue for longer than an ID token lives. Knows
no document and no model, and never logs or repeats a token.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from worker.api.request import Envelope
from worker.auth.tickets import Tickets, is_ticket, same
from worker.core.errors import BackendError, Forbidden, Internal, Unauthenticated

IDENTITY_SECONDS = 6.0
CLOCK_SKEW_SECONDS = 10


class Users(Protocol):
    """Who an ID token belongs to."""

    def uid(self, id_token: str) -> str:
        """The user id of a valid token.

        Raises:
            Unauthenticated: it is not valid.
            BackendError: that could not be found out.
        """
        ...


class Identity:
    """The one answer to "may this caller do that?". None stands for a proof that this worker cannot check."""

    def __init__(self, users: Users | None, tickets: Tickets | None, *, required: bool) -> None:
        self.users, self.tickets, self.required = users, tickets, required

    @property
    def can_check(self) -> bool:
        """Whether there is any proof that this worker can check."""
        return self.users is not None or self.tickets is not None

    async def check(self, envelope: Envelope, raw_input: object, *, acts_for_user: bool) -> bool:
        """Check who asks before anything is read or written for them; a job for nobody needs no proof.

        Args:
            envelope: what the request says of itself; its token is the proof.
            raw_input: the whole `job["input"]` as it came, which a ticket's hash was taken over.
            acts_for_user: whether the job writes or reads what belongs to `user_id`.

        Returns whether the job is wanted only as long as its document is there, by the word of a ticket.

        Raises:
            Unauthenticated, Forbidden: the caller may not act for this user.
            Internal: that could not be found out.
        """
        if not acts_for_user:
            return False
        token = envelope.id_token
        if token is not None and is_ticket(token):
            tickets = self.tickets
            if tickets is None:
                raise Unauthenticated("unauthenticated.no_tickets")
            return bool(await _in_thread(lambda: tickets.check(token, envelope, raw_input)))
        if token is not None and self.users is not None:
            users = self.users
            if not same(await _in_thread(lambda: users.uid(token)), envelope.user_id):
                raise Forbidden("forbidden.user")
        elif self.required and token is not None:
            raise Unauthenticated("unauthenticated.no_firebase")
        elif self.required:
            raise Unauthenticated if self.can_check else Unauthenticated("unauthenticated.no_proof")
        return False


async def _in_thread(check: Callable[[], Any]) -> Any:
    """The answer of a check that may ask Google or hash megabytes, bounded in time."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(check), IDENTITY_SECONDS)
    except (BackendError, TimeoutError):
        raise Internal("internal.identity") from None
