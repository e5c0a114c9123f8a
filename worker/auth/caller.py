"""Checks whether the caller of a job may act for the user that it names.

There are two proofs, both sent in `id_token`: the signed-in user's Firebase ID token, and a ticket that the app's
backend signs for one request. A ticket stays valid while a job is queued for longer than an ID token lives. Knows no
document and no model, and never logs or repeats a token.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from worker.api.request import Envelope
from worker.auth.tickets import Tickets, is_ticket, same
from worker.core.errors import BackendError, Forbidden, Internal, Unauthenticated
from worker.core.stop import mark_retrieved

IDENTITY_SECONDS = 6.0
CLOCK_SKEW_SECONDS = 10


class Users(Protocol):
    """Verifies ID tokens."""

    def uid(self, id_token: str) -> str:
        """Return the user id of a valid token.

        Raises:
            Unauthenticated: the token is not valid.
            BackendError: it could not be verified.
        """
        ...


class Identity:
    """Authorises callers. A `users` or `tickets` of None: this worker cannot verify that kind of proof."""

    def __init__(self, users: Users | None, tickets: Tickets | None, *, required: bool) -> None:
        self.users, self.tickets, self.required = users, tickets, required

    @property
    def can_check(self) -> bool:
        """Whether this worker can verify any proof."""
        return self.users is not None or self.tickets is not None

    async def check(self, envelope: Envelope, raw_input: object, *, acts_for_user: bool) -> bool:
        """Check the caller before anything is read or written for a user; a job without a user needs no proof.

        Args:
            envelope: the request's ids, and its token as the proof.
            raw_input: the whole `job["input"]` as received, which the hash in a ticket covers.
            acts_for_user: whether the job reads or writes data of `user_id`.

        Returns:
            Whether the ticket says that the document already exists, so that a missing one means a cancelled job.

        Raises:
            Unauthenticated, Forbidden: the caller may not act for this user.
            Internal: the proof could not be verified.
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
    """Run a check that may ask Google or hash megabytes, within `IDENTITY_SECONDS` after it begins in its thread.

    Encoding may occupy all threads for a while, and that wait must not count as an answer that does not come.
    """
    loop, begun = asyncio.get_running_loop(), asyncio.Event()

    def checked() -> Any:
        loop.call_soon_threadsafe(begun.set)
        return check()

    checking = asyncio.create_task(asyncio.to_thread(checked))
    checking.add_done_callback(lambda _: begun.set())  # also if no thread can be started
    checking.add_done_callback(mark_retrieved)  # its job may be stopped before it begins
    await begun.wait()
    try:
        return await asyncio.wait_for(checking, IDENTITY_SECONDS)
    except (BackendError, TimeoutError):
        raise Internal("internal.identity") from None
