"""Logging: one line an event, with an `action` and its facts; JSON lines on RunPod, readable ones elsewhere.

Knows formats and what must never be printed. Keys, tokens, inline images and anything that looks like one are blotted
out of every line, whoever wrote it; errors are logged as their type and place, never with a message that may quote a
client. What a library says, with `logging` or with `warnings`, is logged in the same way, from warnings on, by its
place: its words have hosts, paths, signed URLs and prompts in them. An error that nobody handles is one line, too.
"""

import json
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TextIO

from worker.core.config import Settings

_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
    r"|(?<=token=)[^&\s\"']+"
    r"|(?<=://)[^/?#\s]+(?=@)"  # a user name and password, which may contain an @
    r"|(?i:(?<=bearer )[\w.~+/=-]+)"
    r"|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"
    r"|\b(?:eyJ|MII)[\w+/=-]{64,}"  # a key without its frame: base64 of the JSON, base64 of the DER
    r"|(?i:(?<=base64,))[A-Za-z0-9+/=_%-]{16,}",
    re.DOTALL,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_OURS = frozenset({"worker", "tools", "__main__"})
"""The first part of the names of loggers whose words are this repository's; a module that is run is the last."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
"""The trace of the job that the current task or thread works for, added to each of its lines."""
job_id: ContextVar[str | None] = ContextVar("job_id", default=None)
"""That job's id, as above."""

log = logging.getLogger(__name__)


def redact(text: str) -> str:
    """Return the text on one line, with everything that looks like a key, token or inline image redacted."""
    return _CONTROL.sub(_escaped, _SECRETS.sub("[redacted]", text))


def _escaped(control: re.Match[str]) -> str:
    return control[0].encode("unicode_escape").decode()


def _redacted(value: object) -> Any:
    """Redact all strings inside a value, before `json.dumps`: afterwards a redaction could remove quotes."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    return redact(str(value))


def where(error: BaseException) -> str:
    """Return an error's type and the last functions of its traceback, innermost last; no message, no path."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " > ".join(f"{Path(frame.filename).stem}.{frame.name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__} in {places or 'an unknown place'}"


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in _OURS


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        facts, message = {}, f"said in {record.module}.{record.funcName}:{record.lineno}"
        if _is_ours(record):
            facts = {key: value for key, value in vars(record).items() if key not in _STANDARD}
            message = record.getMessage()
        for name, job in (("job_id", job_id.get()), ("trace_id", trace_id.get())):
            if job is not None:
                facts.setdefault(name, job)
        if record.exc_info and record.exc_info[1] is not None:
            message = f"{message} ({where(record.exc_info[1])})"
        if self._as_json:
            line: dict[str, Any] = {"level": record.levelname, "logger": record.name, "message": message, **facts}
            return json.dumps(_redacted(line))
        tail = " ".join(f"{key}={value}" for key, value in facts.items())
        return redact(f"{record.levelname:<7} {record.name}: {message}" + (f"  {tail}" if tail else ""))


class _Library(logging.Logger):
    """Leaves its records to the root logger, where a library would write them to a standard stream as they are.

    torch, diffusers, transformers and huggingface_hub set up handlers of their own when they are imported.
    """

    excepted: ClassVar[str | None] = None
    """A package whose own lines stay."""
    _left_to_root, _propagates = False, True

    @property
    def propagate(self) -> bool:
        return self._propagates or self._left_to_root

    @propagate.setter
    def propagate(self, value: bool) -> None:
        self._propagates = value

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 - logging's name
        if type(hdlr) is not logging.StreamHandler or self.name.partition(".")[0] == self.excepted:
            super().addHandler(hdlr)
        else:
            self._left_to_root = True


def _module(path: str) -> str:
    """Return the module of an installed file, such as `torch.nn.functional`; of any other file its name."""
    parts = Path(path).with_suffix("").parts if Path(path).name else ()
    return ".".join(parts[parts.index("site-packages") + 1 :]) if "site-packages" in parts else Path(path).stem


def _warned(  # noqa: PLR0917 - as `warnings` calls it
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del message, file, line
    log.warning("%s in %s:%d", category.__name__, _module(filename), lineno, extra={"action": "library_warned"})


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        facts = {"action": "thread_ended", "thread_name": ended.thread.name if ended.thread else None}
        log.error("a thread ended with %s", where(ended.exc_value), extra=facts)


def _process_ended(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        log.critical("the process ended with %s", where(error), extra={"action": "process_ended"})


def _unraisable(ended: "sys.UnraisableHookArgs") -> None:
    if ended.exc_value is not None:
        log.error("an object was left with %s", where(ended.exc_value), extra={"action": "unraisable"})


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send all logging to `stream` (stderr) in our format, at `LOG_LEVEL`. Call it before libraries are imported."""
    on_platform = bool(settings.runpod_endpoint_id)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Formatter(as_json=on_platform))
    handler.setLevel(settings.log_level)  # libraries give their loggers levels of their own: runpod does for urllib3
    # Below warnings, libraries log every request and every file.
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or _is_ours(record))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    _Library.excepted = None if on_platform else "uvicorn"  # the local API says where it listens
    logging.setLoggerClass(_Library)
    # By default Python prints log records that cannot be formatted, records without a handler, warnings, and errors
    # that nobody handles, all with their content.
    logging.raiseExceptions, logging.lastResort = False, None
    warnings.showwarning = _warned
    sys.excepthook, sys.unraisablehook, threading.excepthook = _process_ended, _unraisable, _thread_ended
