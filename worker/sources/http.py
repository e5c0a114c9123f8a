"""Downloads a stranger's https:// URL without ever connecting to an internal address.

Each address is checked where the connection is made, and exactly that address is dialled, so nothing can change between
check and use. Follows OWASP's Server-Side Request Forgery Prevention Cheat Sheet. Knows names, addresses, TLS and
redirects; does not know what the bytes are.
"""

import functools
import io
import ipaddress
import itertools
import math
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import httpcore
import httpx
import idna

from worker.core.errors import DownloadFailed, UrlBlocked

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Sequence[str]]
"""A host name and a port -> all its addresses. Raises OSError if it has none."""

MAX_URL_CHARACTERS = 8192
MAX_REDIRECTS = 5
MAX_CODINGS = 2
"""Nested content encodings."""
DEADLINE_SECONDS = 15.0
_ASK_EVERY_SECONDS = 0.5
_CONNECT_SECONDS = 5.0
_PICTURES = (
    b"image/png, image/jpeg, image/webp, image/heic;q=0.9, image/heif;q=0.9, image/avif;q=0.9, image/gif;q=0.8, "
    b"image/bmp;q=0.8, image/tiff;q=0.8, */*;q=0.1"
)
_HEADERS = ((b"Accept-Encoding", b"identity"), (b"User-Agent", b"generation-worker/1"))
_UNFOLDED = frozenset({b"gzip", b"x-gzip", b"deflate"})
_NOT_UNFOLDED = frozenset({b"br", b"zstd", b"compress", b"x-compress", b"dcb", b"dcz"})
_MAX_HOST_CHARACTERS = 253
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_AUTHORITY = re.compile(r"[A-Za-z]*:?//(?:(?P<host>[^/?#@:\[\]]*)(?::[0-9]{0,5})?(?![^/?#])|[^/?#]*)")
_SLASHES = re.compile(r"\A((?:https:)?)/{3,}", re.IGNORECASE)
_LOCATION = re.compile(rb"(?P<start>(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*)?(?P<path>[^?#]*)(?P<rest>.*)", re.DOTALL)

# IANA's special-purpose registries, and what they leave out. Python 3.11's `is_global` lets several of these through.
_BLOCKED_V4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; also a cloud's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's platform address, public by its number only
        "169.254.0.0/16",  # link-local; the metadata service of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # also Oracle's metadata service
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
]
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
"""All that IANA has allocated for the public internet; fc00::/7, fe80::/10, fec0::/10, ff00::/8, ::1 lie outside."""
_BLOCKED_V6 = [
    ipaddress.IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether an address is reachable from the public internet."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not any(address in network for network in _BLOCKED_V4)
    if address in _NAT64:
        # On an IPv6-only network every IPv4 host resolves to one of these: the embedded address decides.
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL_V6 and not any(address in network for network in _BLOCKED_V6)


def resolve_with_system(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host from the system's resolver, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


@functools.cache
def _system_tls() -> ssl.SSLContext:
    # trust_env=False: ignore SSL_CERT_FILE and SSLKEYLOGFILE.
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Downloads files. The defaults are the strict values; only tests change the resolver and what follows it."""

    max_bytes: int
    deadline_seconds: float = DEADLINE_SECONDS
    resolve: Resolver = resolve_with_system
    is_allowed: Callable[[Address], bool] = is_public
    ports: frozenset[int] = frozenset({443})
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    accept: bytes = _PICTURES

    def fetch(
        self,
        url: str,
        what: str,
        raise_if_stopped: Callable[[], None] | None = None,
        seconds: float = math.inf,
    ) -> bytes:
        """Return the whole body; arguments and errors as for `pieces`."""
        body = io.BytesIO()  # joined pieces would take twice the memory
        for piece in self.pieces(url, what, raise_if_stopped, seconds=seconds):
            body.write(piece)
        return body.getvalue()

    def pieces(
        self,
        url: str,
        what: str,
        raise_if_stopped: Callable[[], None] | None = None,
        *,
        seconds: float = math.inf,
        token: tuple[str, str] | None = None,
    ) -> Generator[bytes, None, None]:
        """Download `url` within the deadline. Redirects are followed here, and checked like the first URL.

        Args:
            url: an https:// URL from a stranger.
            what: the request field, with which every error message begins. Messages never repeat the URL or host.
            raise_if_stopped: called about twice a second; an error that it raises ends the download and propagates.
            seconds: the time limit, if shorter than the deadline.
            token: a host, and a bearer token that is sent only to that host, not to one it redirects to.

        Raises:
            UrlBlocked: not https on an allowed port, malformed, or leads to an address that is not public.
            DownloadFailed: no such host, no answer, an error status, too large, too slow.
        """
        dial = _Dialler(self, what, min(seconds, self.deadline_seconds), raise_if_stopped or (lambda: None))
        target = self._check(url, what)
        try:
            with httpcore.ConnectionPool(ssl_context=self.tls or _system_tls(), network_backend=dial) as pool:
                for _ in range(MAX_REDIRECTS + 1):
                    headers = [*_HEADERS, (b"Accept", self.accept)]
                    if token is not None and target.host == token[0]:
                        headers.append((b"Authorization", f"Bearer {token[1]}".encode()))
                    with pool.stream("GET", _core_url(target), headers=headers) as response:
                        location = _location(response)
                        if location is None:
                            yield from self._read(response, what)
                            return
                    target = self._check(self._join(target, location, what), what)
        except httpcore.TimeoutException as error:
            raise dial.too_slow() from error
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
            raise DownloadFailed("download_failed.unreachable", field=what) from error
        raise DownloadFailed("download_failed.redirects", field=what, most=MAX_REDIRECTS, retryable=False)

    def _check(self, url: str, what: str) -> httpx.URL:
        """Check a URL without any network access.

        Path and query may contain characters that browsers percent-encode, and the host may be in any script. Anything
        that parsers disagree about (control characters, backslashes, a user name) is refused.
        """
        if len(url) > MAX_URL_CHARACTERS or _CONTROL.search(url) or "\\" in url:
            raise UrlBlocked("url_blocked.characters", field=what, most=MAX_URL_CHARACTERS)
        try:
            parsed = httpx.URL(_with_ascii_host(url))
            host, port = parsed.raw_host.decode("ascii"), 443 if parsed.port is None else parsed.port
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise UrlBlocked("url_blocked.unreadable", field=what) from error
        if parsed.scheme != "https" or port not in self.ports:
            raise UrlBlocked("url_blocked.not_https", field=what)
        if parsed.userinfo or len(host) > _MAX_HOST_CHARACTERS or not _HOST.fullmatch(host):
            raise UrlBlocked("url_blocked.host", field=what)
        return parsed

    def _join(self, base: httpx.URL, location: bytes, what: str) -> str:
        """Resolve a redirect as browsers do: bytes beyond ASCII are percent-encoded as they are."""
        # Tabs and surplus slashes are ignored: https://url.spec.whatwg.org/#url-parsing
        parts = _LOCATION.fullmatch(location.strip().replace(b"\t", b""))
        assert parts is not None  # noqa: S101 - it matches everything
        start, path, rest = parts["start"] or b"", parts["path"], parts["rest"]
        try:
            target = start.decode() + _escaped(path.replace(b"\\", b"/")) + _escaped(rest)
            target = _SLASHES.sub(r"\1//", target)
            return str(base.join(_with_ascii_host(target)))
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise UrlBlocked("url_blocked.redirect", field=what) from error

    def _read(self, response: httpcore.Response, what: str) -> Iterator[bytes]:
        if response.status != 200:
            passing = response.status >= 500 or response.status in {408, 429}
            raise DownloadFailed("download_failed.status", field=what, status=response.status, retryable=passing)
        length = _header(response, b"content-length")
        too_large = DownloadFailed("download_failed.too_large", field=what, most=self.max_bytes, retryable=False)
        if length.isdigit() and int(length) > self.max_bytes:
            raise too_large
        arrived = 0
        for piece in _decoded(response.iter_stream(), _header(response, b"content-encoding"), what):
            arrived += len(piece)
            if arrived > self.max_bytes:
                raise too_large
            yield piece


def _core_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _with_ascii_host(url: str) -> str:
    """Convert the host to its ASCII form as browsers do: https://www.unicode.org/reports/tr46/.

    Raises:
        UnicodeError: it has none (idna's errors are subclasses).
    """
    found = _AUTHORITY.match(url)
    if found is None or found[0].isascii():
        return url
    if found["host"] is None or len(found["host"]) > _MAX_HOST_CHARACTERS:
        raise UnicodeError
    host = idna.encode(found["host"], uts46=True, std3_rules=True).decode()
    return url[: found.start("host")] + host + url[found.end("host") :]


def _escaped(text: bytes) -> str:
    """Percent-encode everything but printable ASCII; httpx handles the rest."""
    return "".join(chr(byte) if 0x20 < byte < 0x7F and byte != 0x5C else f"%{byte:02X}" for byte in text)


def _location(response: httpcore.Response) -> bytes | None:
    if response.status not in {301, 302, 303, 307, 308}:
        return None
    return next((value for name, value in response.headers if name.lower() == b"location"), None)


def _header(response: httpcore.Response, wanted: bytes) -> bytes:
    """Return a header's value; repeated headers are joined to one list (RFC 9110, 5.3)."""
    return b",".join(value for name, value in response.headers if name.lower() == wanted).lower()


def _decoded(pieces: Iterable[bytes], encoding: bytes, what: str) -> Iterator[bytes]:
    """Decode the body in small pieces, so that a decompression bomb is detected early.

    Names that are not encodings (`utf-8`, `binary`, `none`, `aws-chunked`) are ignored, as in browsers.
    """
    names = [name.strip() for name in encoding.split(b",")]
    codings = [name for name in names if name in _UNFOLDED | _NOT_UNFOLDED]
    if len(codings) > MAX_CODINGS or not _UNFOLDED.issuperset(codings):
        raise DownloadFailed("download_failed.encoding", field=what, retryable=False)
    for coding in reversed(codings):
        pieces = _unfolded(pieces, coding, what)
    yield from pieces


def _unfolded(pieces: Iterable[bytes], coding: bytes, what: str) -> Iterator[bytes]:
    """Undo one encoding; bytes that are not encoded, whatever the server claims, pass unchanged."""
    pieces = filter(None, pieces)
    start = b""
    while len(start) < 2 and (piece := next(pieces, b"")):
        start += piece
    is_gzip = start.startswith(b"\x1f\x8b")
    if coding != b"deflate" and not is_gzip:
        yield start
        yield from pieces
        return
    # `deflate` is zlib's format by specification, but raw deflate from some servers; browsers accept both.
    is_zlib = len(start) > 1 and start[0] & 15 == 8 and int.from_bytes(start[:2]) % 31 == 0
    wbits = 47 if is_gzip or is_zlib else -15
    unfold = zlib.decompressobj(wbits)
    for piece in itertools.chain([start], pieces):
        while piece:
            if unfold.eof:
                # Consecutive gzip members form one file (RFC 1952, 2.2); other trailing bytes are ignored.
                if not (is_gzip and b"\x1f\x8b".startswith(piece[:2])):
                    return
                unfold = zlib.decompressobj(wbits)
            try:
                yield unfold.decompress(piece, 1 << 16)
            except zlib.error as error:
                raise DownloadFailed("download_failed.encoding", field=what, retryable=False) from error
            piece = unfold.unconsumed_tail or unfold.unused_data  # noqa: PLW2901 - what is left of it is the piece
    if not unfold.eof:
        raise DownloadFailed("download_failed.broke_off", field=what)


class _Dialler(httpcore.NetworkBackend):
    """Connects to checked addresses only, and bounds every wait by the download's deadline."""

    def __init__(self, fetcher: Fetcher, what: str, seconds: float, raise_if_stopped: Callable[[], None]) -> None:
        self.raise_if_stopped = raise_if_stopped
        self._fetcher, self._what, self._seconds = fetcher, what, seconds
        self._deadline = time.monotonic() + seconds
        self._backend = httpcore.SyncBackend()

    def left(self, at_most: float) -> float:
        """Return the seconds left, at most `at_most`, after checking whether the job was stopped.

        Raises:
            DownloadFailed: the deadline has passed.
        """
        self.raise_if_stopped()
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self.too_slow()
        return min(left, at_most)

    def too_slow(self) -> DownloadFailed:
        return DownloadFailed("download_failed.too_slow", field=self._what, seconds=round(self._seconds, 1))

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._resolve(host, port)
        if not all(self._fetcher.is_allowed(address) for address in addresses):
            raise UrlBlocked("url_blocked.not_public", field=self._what)
        failure: Exception = httpcore.ConnectError()
        for address in addresses:
            try:
                stream = self._backend.connect_tcp(str(address), port, self.left(_CONNECT_SECONDS))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self)
        raise failure

    def _resolve(self, host: str, port: int) -> list[Address]:
        # The system's resolver has no timeout. A thread that waits for a dead name server ends later by itself.
        found: list[str] = []

        def ask() -> None:
            try:
                found.extend(self._fetcher.resolve(host, port))
            except (OSError, UnicodeError):
                found.clear()

        thread = threading.Thread(target=ask, name="resolve", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(self.left(_ASK_EVERY_SECONDS))
        if not found:
            raise DownloadFailed("download_failed.no_address", field=self._what)
        return [ipaddress.ip_address(address) for address in found]


class _Stream(httpcore.NetworkStream):
    """A connection whose reads check the stop signal and end exactly at the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, dial: _Dialler) -> None:
        self._stream, self._dial = stream, dial

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            try:
                return self._stream.read(max_bytes, self._dial.left(_ASK_EVERY_SECONDS))
            except httpcore.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._dial.left(_CONNECT_SECONDS))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._dial.left(_CONNECT_SECONDS)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._dial)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        self._stream.close()
