"""A worker under attack: everything it does is watched, and every attempt is entered in a table.

The request parser, the resolver policy, the downloader and the decoder are real; the model is a painter, documents and
bucket are in memory. An audit hook sees what the process does (connections, name look-ups, programs, system files), so
that nothing has to be patched to be watched.
"""

import asyncio
import dataclasses
import io
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support import memory_world
from tests.support.fakes import PaintingGenerator
from worker.api.params import Params
from worker.api.request import Request, envelope, parse
from worker.auth.caller import Identity, Users
from worker.auth.tickets import Tickets
from worker.core.types import Control, Sources
from worker.delivery.own_objects import OwnObjects
from worker.engine.protocol import Generated
from worker.job.services import Services
from worker.media import decode
from worker.sources.http import Address, Fetcher, is_public, resolve_with_system
from worker.sources.loader import SourceLoader

OWNER = {"use_cloud_storage": True, "user_id": "user", "file_uid": "file"}
GOOD = {"prompt": "a fox", "seed": 7, **OWNER}
PATH = memory_world.PATH


def nested(depth: int, *, lists: bool = False) -> Any:
    """Return a text at the bottom of `depth` nested objects, or lists."""
    value: Any = "x"
    for _ in range(depth):
        value = [value] if lists else {"a": value}
    return value


LEAKS = re.compile(
    r"Traceback|File \"|\b\w+Error\(|site-packages|PRIVATE KEY|token=[^&\s\"'\[]|\beyJ[\w-]{8,}"
    r"|(?<![\w.:])/(?:work|usr|home|root|tmp|etc|app|opt|var|runpod-volume)/"
)
"""Patterns that no response to an attack, none of its documents and no log line may contain."""

_ECHO = re.compile(r"\(got \\+\"[^()]{,80}\)")
"""A shortened copy of the client's own value in a message."""

# --- the process's side effects ---

_WATCHED = {
    "socket.connect",
    "socket.sendto",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "pickle.find_class",
    "urllib.Request",
}
_SYSTEM_FILES = re.compile(r"^/(?:etc/passwd|etc/shadow|proc/self/environ)")
_seen: list[tuple[str, Any]] | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event in _WATCHED or (event == "open" and _SYSTEM_FILES.match(str(args[0]))):
        _seen.append((event, args[1] if event == "socket.connect" else args[0]))


sys.addaudithook(_audit)


@contextmanager
def watched() -> Iterator[list[tuple[str, Any]]]:
    """Yield a list that collects (event, target) of every connection, look-up, program and system file."""
    global _seen  # noqa: PLW0603 - an audit hook cannot be removed, so it is switched
    found: list[tuple[str, Any]] = []
    _seen = found
    try:
        yield found
    finally:
        _seen = None


# --- the attempts ---


@dataclass(slots=True)
class Row:
    """One row of the table."""

    name: str
    tried: int = 0
    refused: int = 0
    harmless: int = 0
    let_through: int = 0
    crashed: int = 0
    leaked: int = 0
    workers_lost: int = 0
    others_lost: int = 0
    """Jobs of other users that got no response, or a wrong one."""
    slowest_ms: float = 0.0


TABLE: dict[int, Row] = {}


def table() -> str:
    """Return the table of all attempts of this run as aligned text."""
    heads = (
        *("row", "attack", "tried", "refused", "harmless", "let through", "crashed", "leaked", "workers lost"),
        *("others lost", "slowest ms"),
    )
    rows = [
        (str(number), *(str(value) for value in list(dataclasses.astuple(row))[:-1]), f"{row.slowest_ms:.0f}")
        for number, row in sorted(TABLE.items())
    ]
    counts = [list(dataclasses.astuple(row))[1:-1] for row in TABLE.values()]
    totals = [str(sum(column)) for column in zip(*counts, strict=True)]
    slowest = max((row.slowest_ms for row in TABLE.values()), default=0)
    rows.append(("", f"all {len(TABLE)} rows", *totals, f"{slowest:.0f}"))
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        numbers = (cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True))
        return "  ".join((cells[0].rjust(widths[0]), cells[1].ljust(widths[1]), *numbers)).rstrip()

    return "\n".join(line(cells) for cells in (heads, *rows))


# --- the worker ---


class Watching(PaintingGenerator):
    """A painter that records what it was asked to paint."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Params, Sources]] = []

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        self.asked.append((params, sources))
        return super().generate(request, params, sources, control)


@dataclass
class Names:
    """A name server that knows the given names and answers in order; it reads numbers as the system does."""

    known: dict[str, list[list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    numbers: Callable[[str, int], Sequence[str]] = resolve_with_system

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host in self.known:
            answers = self.known[host]
            return answers.pop(0) if len(answers) > 1 else answers[0]
        if not re.fullmatch(r"[0-9a-fx.:%]+|localhost\.?", host, re.IGNORECASE):
            raise OSError("nobody has heard of it")
        return self.numbers(host, port)


class World(memory_world.World):
    """A worker that is attacked. `log` holds everything it has logged since the last reset, at DEBUG."""

    generator: Watching

    def __init__(
        self,
        log: io.StringIO,
        *,
        is_allowed: Callable[[Address], bool] = is_public,
        fetcher: dict[str, Any] | None = None,
        users: Users | None = None,
        tickets: Tickets | None = None,
        token: Callable[[dict[str, Any]], str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(Watching(), log_level="DEBUG", **settings)
        self.log, self.names, self.calls = log, Names(), list[tuple[str, str]]()
        self._users, self._tickets, self._token = users, tickets, token
        self.fetcher = Fetcher(
            **{
                "max_bytes": self.settings.max_input_image_bytes,
                "resolve": self.names,
                "is_allowed": is_allowed,
                **(fetcher or {}),
            }
        )
        decode.start()  # once, before anything is watched: every program started later is seen
        self.documents.before = self.bucket.before = lambda call, path: self.calls.append((call, path))
        self._runner = asyncio.Runner()
        self._jobs = 0
        self.good()  # so that everything that is created once exists

    def services(self) -> Services:
        services = super().services()
        read = OwnObjects(services.storage, services.documents) if services.storage else None
        return dataclasses.replace(
            services,
            sources=SourceLoader(self.settings, read, self.fetcher),
            identity=Identity(
                self._users or services.identity.users, self._tickets, required=self.settings.require_id_token
            ),
        )

    def valid(self, job_input: dict[str, Any]) -> dict[str, Any]:
        """Return the input with proof of the user it names, if this worker requires proof."""
        return job_input | {"id_token": self._token(job_input)} if self._token else job_input

    def ask(self, job_input: object) -> dict[str, Any]:
        """Serve one job, as a client sends it."""
        self._jobs += 1
        return self._runner.run(self.run(job_input, f"job-{self._jobs}"))

    def ask_at_once(self, job_inputs: Sequence[object]) -> list[dict[str, Any]]:
        """Serve many jobs concurrently, as separate jobs of the platform."""

        async def all_of_them() -> list[dict[str, Any]]:
            self._jobs += len(job_inputs)
            jobs = [self.run(job, f"job-{self._jobs}-{number}") for number, job in enumerate(job_inputs)]
            return await asyncio.gather(*jobs)

        return self._runner.run(all_of_them())

    def hand_over(self, call: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Serve one job through another entry point, in the worker's own event loop."""

        async def wait() -> dict[str, Any]:
            return await call()

        return self._runner.run(wait())

    def forget(self) -> None:
        """Empty the documents, the bucket and all records."""
        self.documents.stored.clear()
        self.documents.history.clear()
        self.bucket.objects.clear()
        self.calls.clear()
        self.names.asked.clear()
        self.generator.asked.clear()
        self.log.seek(0)
        self.log.truncate()

    def good(self, **more: Any) -> None:
        """Check that the worker is alive: a job succeeds now, with a document and one file."""
        self.forget()
        response = self.ask(self.valid(GOOD | more))
        assert "error" not in response, response
        assert (self.document["status"], len(self.paths)) == ("completed", 1)
        self.forget()

    def close(self) -> None:
        """Close the event loop."""
        self._runner.close()

    # Attacks.

    def attack(
        self,
        row: tuple[int, str],
        job_input: object,
        *codes: str,
        names: str | None = None,
        dials: Sequence[Any] = (),
        hides: str | None = None,
        proven: bool = True,
        looks_up: bool = False,
        begun: bool = False,
    ) -> dict[str, Any]:
        """Try one input that must be refused, and look everywhere for side effects.

        Args:
            row: number and name of the attack.
            job_input: the input to send.
            codes: the error codes that are right.
            names: the field that the message has to name.
            dials: addresses that may be connected to (a stand-in for the public internet).
            hides: a text that must not be repeated; by default every long string of the input.
            proven: whether the caller may act for the user they name; otherwise no document may be touched.
            looks_up: whether the system may be asked for the address of a number or of `localhost`.
            begun: whether the job may start, because only its document leads to the refusal, during its first step.
        """
        entry = TABLE.setdefault(row[0], Row(row[1]))
        entry.tried += 1
        self.forget()
        generated, self.generator.lingers = self.generator.generated, begun
        with watched() as seen:
            started = time.perf_counter()
            try:
                response = self.ask(job_input)
            except BaseException:
                entry.crashed += 1
                raise
            milliseconds = 1000 * (time.perf_counter() - started)
        entry.slowest_ms = max(entry.slowest_ms, milliseconds)
        self.generator.lingers = False
        code = response.get("error_code")
        if code == "internal" and "internal" not in codes:
            entry.crashed += 1
        elif code is None or self.generator.generated > generated or self.bucket.objects:
            entry.let_through += 1
        out = json.dumps(response, allow_nan=False) + self._documents_without_request(job_input) + self.log.getvalue()
        leaks = LEAKS.findall(_ECHO.sub("", out)) + [text for text in _long_strings(job_input, hides) if text in out]
        entry.leaked += bool(leaks)
        assert code in codes, response
        assert not leaks, leaks
        assert response["retryable"] in {True, False}
        assert len(response["error"]) < 4000
        if names is not None:
            assert f"{names}: " in response["error"], response["error"]
        assert begun or not self.generator.asked
        assert self.generator.generated == generated
        assert not self.bucket.objects
        self._check_document(job_input, str(code), proven)
        allowed = [("socket.connect", dial) for dial in dials]
        allowed += [("socket.getaddrinfo", host) for host, _port in dials]
        done = [event for event in seen if event not in allowed and not (looks_up and event[0] == "socket.getaddrinfo")]
        assert done == []
        entry.refused += 1
        return response

    def _documents_without_request(self, job_input: object) -> str:
        """Return the documents as text without `request_data`, which must hold only a valid request."""
        shown = []
        for stored, _version in self.documents.stored.values():
            kept = stored["request_data"]
            if set(kept) != {"task_type"}:
                assert kept == parse(job_input).public()
            shown.append({name: value for name, value in stored.items() if name != "request_data"})
        return json.dumps(shown, default=str)

    def _check_document(self, job_input: object, code: str, proven: bool) -> None:
        """Check that a job with valid ids and an authorised caller is refused in its document too, and no other job."""
        known = envelope(job_input)
        if known.owner is None or not proven:
            assert not self.documents.stored
            return
        path = f"generations/{known.owner.user_id}/files/{known.owner.file_uid}"
        assert set(self.documents.stored) <= {path}
        for stored, _version in self.documents.stored.values():
            assert (stored["status"], stored["error"]["code"]) == ("failed", code)

    def harmless(self, row: tuple[int, str], job_input: dict[str, Any]) -> tuple[dict[str, Any], Params, Sources]:
        """Try one input that may be served as long as it does no harm; returns the response and the model's inputs."""
        entry = TABLE.setdefault(row[0], Row(row[1]))
        entry.tried += 1
        self.forget()
        with watched() as seen:
            started = time.perf_counter()
            try:
                response = self.ask(job_input)
            except BaseException:
                entry.crashed += 1
                raise
            entry.slowest_ms = max(entry.slowest_ms, 1000 * (time.perf_counter() - started))
        leaks = LEAKS.findall(self.log.getvalue())
        entry.leaked += bool(leaks)
        assert not leaks, leaks
        assert "error" not in response, response
        assert seen == []
        assert all(line.startswith(("DEBUG", "INFO", "WARNING")) for line in self.log.getvalue().splitlines())
        ((params, sources),) = self.generator.asked
        entry.harmless += 1
        return response, params, sources


def note(row: tuple[int, str], *, refused: int = 0, harmless: int = 0) -> None:
    """Enter results of an attack that was not made through `attack`."""
    entry = TABLE.setdefault(row[0], Row(row[1]))
    entry.tried += refused + harmless
    entry.refused += refused
    entry.harmless += harmless


def _long_strings(value: object, hides: str | None) -> Iterator[str]:
    """Yield the strings of the input that are too long to be repeated whole."""
    if hides is not None:
        yield hides
        return
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str) and len(item) > 40:
            yield json.dumps(item)[1:-1]
        elif isinstance(item, dict):
            pending.extend((*item, *item.values()))
        elif isinstance(item, list):
            pending.extend(item)
