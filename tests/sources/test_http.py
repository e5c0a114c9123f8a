"""A stranger's URL is followed to public addresses only, in bounded time and memory, and nothing of it is repeated."""

import gzip
import ipaddress
import math
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Sequence

import pytest

from tests.support.clock import SOON_SECONDS
from tests.support.hostile_hosts import INNER
from tests.support.hostile_pictures import flat_memory
from tests.support.https_server import HOST, PICTURE, HttpsServer, anywhere, loopback
from worker.core.errors import Cancelled, DownloadFailed, JobError, UrlBlocked
from worker.sources import http
from worker.sources.http import Address, Fetcher, is_public

pytestmark = pytest.mark.usefixtures("_forget")


@pytest.fixture
def get(server: HttpsServer) -> Callable[..., bytes]:
    """Return a function that fetches from the local server over real TLS, with only the address policy relaxed."""

    def fetch_from(
        path: str,
        raise_if_stopped: Callable[[], None] | None = None,
        seconds: float = math.inf,
        **options: object,
    ) -> bytes:
        chosen = {
            "max_bytes": 100_000,
            "deadline_seconds": 5.0,
            "resolve": loopback,
            "is_allowed": anywhere,
            "ports": frozenset({443, server.port}),
            "tls": server.tls,
        } | options
        url = path if path.startswith("https:") else f"https://{HOST}:{server.port}{path}"
        return Fetcher(**chosen).fetch(url, "image_url", raise_if_stopped, seconds)  # type: ignore[arg-type]  # options by name

    return fetch_from


def never(host: str, port: int) -> Sequence[str]:
    raise AssertionError("nobody should have been asked")


# --- permitted addresses ---


INSIDE = (
    "127.0.0.1 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 169.254.169.254 169.254.170.2 "
    "172.16.0.1 172.31.255.255 192.168.1.1 192.0.0.192 192.0.0.8 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 "
    "198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16 :: ::1 "
    "::ffff:127.0.0.1 ::ffff:8.8.8.8 ::7f00:1 fe80::1 fe80::1%1 fec0::1 fc00::1 fd00:ec2::254 ff02::1 "
    "2001:db8::1 2001::1 2001:20::1 2002:7f00:1:: 2002:808:808:: 3fff::1 5f00::1 100::1 64:ff9b::7f00:1 "
    "64:ff9b::a9fe:a9fe 64:ff9b:1::8.8.8.8 4000::1 "
)


@pytest.mark.parametrize("address", INSIDE.split())
def test_no_address_inside_is_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "151.101.1.69", "2606:4700::1111", "2a00:1450:4001:80b::200a", "64:ff9b::8.8.8.8"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


MORE = ["localhost.", "LOCALHOST", "127.0.0.1", "local\u200bhost", "①⑥⑨.②⑤④.①⑥⑨.②⑤④"]


@pytest.mark.parametrize("host", [*(host for _, hosts in INNER.values() for host in hosts.split()), *MORE])
def test_every_spelling_of_an_inner_address_is_blocked_by_the_default_policy(host: str) -> None:
    """The system's own resolver reads the host, so the check covers every spelling that the system understands."""
    fetcher = Fetcher(1000, deadline_seconds=5)
    with pytest.raises((UrlBlocked, DownloadFailed)) as caught:
        fetcher.fetch(f"https://{host}/picture.png", "image_url")
    if not isinstance(caught.value, UrlBlocked):  # a resolver may know no such name: nothing was dialled
        assert "has no address" in caught.value.message
        assert host.endswith(".") or not host.replace(".", "").isdigit()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "HTTP://example.com/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "gopher://example.com/",
        "data:image/png;base64,AAAA",
        "//example.com/a.png",
        "example.com/a.png",
        "https:///a.png",
        "https://",
        "https:example.com",
        "https://example.com:22/",
        "https://example.com:80/",
        "https://example.com:6379/",
        "https://example.com:99999/",
        "https://example.com:0/",
        "https://example.com:-1/",
        "https://example.com:abc/",
        "https://user:pw@example.com/",
        "https://user@example.com/",
        "https://127.0.0.1\\@8.8.8.8/",
        "https://8.8.8.8\\.example.com/",
        "https://[::1",
        "https://[zz]/",
        "https://exam ple.com/",
        "https://example.com/a\r\nHost: evil",
        "https://example.com/\x00",
        "https://xn--a\u0301/",
        "https://\u202eexample.com/",
        "https://" + "a" * 300 + ".com/",
        "https://" + "a." * 200 + "com/",
        "https://example.com/" + "a" * 9000,
        "https://\ud800/",
        "https://example.com:４４３/",
        "https://ex\xa0ample.com/",
        "https://example.com／a.png",
        "https://example.com＠127.0.0.1/",
        "https://ｕser@example.com/",
        "https://☃" + "é" * 300 + ".com/",
        "",
    ],
)
def test_what_is_no_plain_https_url_is_blocked_before_anybody_is_asked(url: str) -> None:
    with pytest.raises(UrlBlocked) as caught:
        Fetcher(1000, resolve=never).fetch(url, "mask_url")
    assert caught.value.message.startswith("mask_url: ")
    assert "example" not in caught.value.message


def test_one_inner_address_among_public_ones_blocks_the_host(get: Callable[..., bytes]) -> None:
    with pytest.raises(UrlBlocked):
        get("/picture", resolve=lambda host, port: ["8.8.8.8", "127.0.0.1"], is_allowed=is_public)


def test_the_address_that_was_checked_is_the_one_that_is_dialled(get: Callable[..., bytes]) -> None:
    """A name server that answers differently the second time is not asked a second time."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"], ["127.0.0.3"]])
    checked: list[str] = []

    def allowed(address: Address) -> bool:
        checked.append(str(address))
        return str(address) == "127.0.0.1"

    assert get("/picture", resolve=lambda host, port: next(answers), is_allowed=allowed) == PICTURE
    assert checked == ["127.0.0.1"]
    assert next(answers) == ["127.0.0.2"]


def test_an_address_that_does_not_answer_leaves_the_next_one(get: Callable[..., bytes]) -> None:
    assert get("/picture", resolve=lambda host, port: ["127.0.0.77", "127.0.0.1"]) == PICTURE


# --- TLS ---


def test_the_server_is_asked_by_its_name_and_gets_no_more_than_it_needs(
    get: Callable[..., bytes], server: HttpsServer
) -> None:
    assert get("/picture?token=a%2Fb#fragment") == PICTURE
    ((path, headers),) = server.requests
    assert path == "/picture?token=a%2Fb"
    assert headers.pop("Host") == f"{HOST}:{server.port}"
    assert set(headers) == {"Accept", "Accept-Encoding", "User-Agent"}


def test_a_certificate_for_another_name_is_refused(get: Callable[..., bytes], server: HttpsServer) -> None:
    with pytest.raises(DownloadFailed):
        get(f"https://other.example:{server.port}/picture")
    assert server.requests == []


def test_a_certificate_nobody_vouches_for_is_refused(get: Callable[..., bytes], server: HttpsServer) -> None:
    with pytest.raises(DownloadFailed):
        get("/picture", tls=None)
    assert server.requests == []


def test_the_environment_has_no_say(
    get: Callable[..., bytes], server: HttpsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proxy, no netrc, no certificates of the environment."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    assert get("/picture") == PICTURE


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/my photo (1).png?name=a b", "/my%20photo%20(1).png?name=a%20b"),
        ("/фото-é.png", "/%D1%84%D0%BE%D1%82%D0%BE-%C3%A9.png"),
        ("/a[1]|{2}.png?x=[é]", "/a[1]|%7B2%7D.png?x=[%C3%A9]"),
        ("/a%20b%2Fc%.png", "/a%20b%2Fc%.png"),
        ("/a\u202e\xa0.png", "/a%E2%80%AE%C2%A0.png"),
    ],
)
def test_a_url_as_people_paste_it_is_asked_for_as_browsers_do(
    path: str, asked: str, get: Callable[..., bytes], server: HttpsServer
) -> None:
    assert get(path) == PICTURE
    assert server.requests[0][0] == asked


def test_a_host_in_any_script_is_looked_up_as_name_servers_know_it() -> None:
    """TR46, as in browsers: capitals and compatibility forms are folded, invisible characters left out."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["10.0.0.1"]

    for host in ("BÜCHER.example", "bu\u0308cher.ＥＸＡＭＰＬＥ", "faß.example", "a_b.example"):
        with pytest.raises(UrlBlocked, match="not public"):
            Fetcher(1000, resolve=resolve).fetch(f"https://{host}:443/a.png", "image_url")
    assert asked == ["xn--bcher-kva.example", "xn--bcher-kva.example", "xn--fa-hia.example", "a_b.example"]


# --- redirects ---


LOCATIONS = [
    ("/фото-é.png".encode(), "/%D1%84%D0%BE%D1%82%D0%BE-%C3%A9.png"),
    ("/photo-é.png".encode("latin-1"), "/photo-%E9.png"),
    ("?a=ü b".encode("latin-1"), "/raw?a=%FC%20b"),
    (b" /a b.png#top", "/a%20b.png"),
    (b"pictures\\a.png?b\\c", "/pictures/a.png?b%5Cc"),
    (b"/%d1%84.png", "/%d1%84.png"),
    (b"../up/./a.png", "/up/a.png"),
    (b"/a\tb.png", "/ab.png"),
    (b"", "/raw"),
]


@pytest.mark.parametrize(("location", "asked"), LOCATIONS)
def test_a_redirect_is_read_as_browsers_read_it(
    location: bytes, asked: str, get: Callable[..., bytes], server: HttpsServer
) -> None:
    """requests#3959, curl_cffi#574: servers redirect with raw UTF-8, and with Latin-1, in `Location`."""
    server.locations = [location]
    assert get("/raw") == PICTURE
    assert [path for path, _headers in server.requests] == ["/raw", asked]


def test_a_redirect_to_a_host_in_another_script_leads_to_it(get: Callable[..., bytes], server: HttpsServer) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    server.locations = [f"//фото.EXAMPLE:{server.port}/a".encode()]
    with pytest.raises(DownloadFailed):  # the certificate is for another name
        get("/raw", resolve=resolve)
    assert asked == [HOST, "xn--n1aalg.example"]


@pytest.mark.parametrize(
    "location",
    [
        "https://ⓛocalhost/".encode(),
        "https://①27.0.0.1/".encode(),
        "//127。0。0。1/".encode(),
        b"//127.0.0.1/",
        b"\\\\127.0.0.1\\a",
        b"/\\127.0.0.1/a",
        b"///127.0.0.1/a",
        b"https:////127.0.0.1/a",
        b"\\\\\\127.0.0.1/a",
        b"https:\\\\127.0.0.1/a",
        b"https://%31%32%37.0.0.1/",
        b"https://pictures.example%00.evil/",
        "https://bücher.example/".encode("latin-1"),
        "//é:pw@bücher.example/".encode(),
        b"https://pict ures.example/",
        b"https://a\xad.example\\@pictures.example/",
    ],
)
def test_no_spelling_of_a_redirect_leads_inside(
    location: bytes, get: Callable[..., bytes], server: HttpsServer
) -> None:
    server.locations = [location]
    with pytest.raises(UrlBlocked):
        get(
            "/raw",
            is_allowed=lambda address: not server.requests,
            ports=frozenset({443, server.port}),
        )
    assert len(server.requests) == 1


@pytest.mark.parametrize("hops", [1, 5])
def test_a_few_redirects_are_followed(hops: int, get: Callable[..., bytes]) -> None:
    assert get(f"/hops/{hops}") == PICTURE


def test_many_redirects_are_not(get: Callable[..., bytes], server: HttpsServer) -> None:
    with pytest.raises(DownloadFailed, match="redirects more than 5 times"):
        get("/hops/20")
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "target",
    [
        "http://pictures.example/a",
        "https://pictures.example:22/a",
        "file:///etc/passwd",
        "ftp://pictures.example/a",
        "//user:pw@pictures.example/",
        "https://[::1",
        "gopher:x",
        "https://pictures.example\\@127.0.0.1/",
    ],
)
def test_a_redirect_to_where_no_url_may_go_is_blocked(target: str, get: Callable[..., bytes]) -> None:
    with pytest.raises(UrlBlocked) as caught:
        get(f"/to?{target}")
    assert "pictures" not in caught.value.message


def test_a_redirect_to_an_inner_address_is_blocked_before_it_is_dialled(
    get: Callable[..., bytes], server: HttpsServer
) -> None:
    def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if host == HOST else ["169.254.169.254"]

    with pytest.raises(UrlBlocked):
        get(
            f"/to?https://metadata.example:{server.port}/latest",
            resolve=resolve,
            is_allowed=lambda address: str(address) == "127.0.0.1",
        )
    assert len(server.requests) == 1


def test_cookies_are_not_kept(get: Callable[..., bytes], server: HttpsServer) -> None:
    assert get("/cookie") == PICTURE
    assert "Cookie" not in server.requests[-1][1]


def test_a_redirect_without_a_target_is_a_failed_download(get: Callable[..., bytes]) -> None:
    with pytest.raises(DownloadFailed, match="status 302"):
        get("/nowhere")


# --- bodies ---


@pytest.mark.parametrize("status", [204, 206, 304, 401, 403, 404, 410, 429, 500, 503])
def test_another_status_is_named(status: int, get: Callable[..., bytes]) -> None:
    with pytest.raises(
        DownloadFailed, match=rf"^download_failed: image_url: the server answered with status {status}$"
    ):
        get(f"/status/{status}")


@pytest.mark.parametrize("page", ["/endless", "/huge-length", "/gzip-bomb"])
def test_a_body_is_cut_off_at_the_limit_however_it_comes(page: str, get: Callable[..., bytes]) -> None:
    start = time.monotonic()
    with flat_memory(20), pytest.raises(DownloadFailed, match="larger than the 100000 bytes"):
        get(page)
    assert time.monotonic() - start < SOON_SECONDS


def test_a_body_of_exactly_the_limit_is_taken(get: Callable[..., bytes], server: HttpsServer) -> None:
    server.files["/exact"] = bytes(100_000)
    assert len(get("/exact")) == 100_000
    with pytest.raises(DownloadFailed):
        get("/exact", max_bytes=99_999)


@pytest.mark.parametrize("page", ["/drip", "/drip-headers"])
def test_a_server_that_drips_is_left_at_the_deadline(page: str, get: Callable[..., bytes]) -> None:
    """A timeout for each read would never fire: every byte arrives in time."""
    start = time.monotonic()
    with pytest.raises(DownloadFailed, match="within 1 seconds"):
        get(page, deadline_seconds=1.0)
    assert time.monotonic() - start < SOON_SECONDS
    with pytest.raises(DownloadFailed, match=r"within 0\.5 seconds"):
        get(page, seconds=0.5)
    assert time.monotonic() - start < SOON_SECONDS


ZIPPED = gzip.compress(PICTURE, mtime=0)
BARE = zlib.compressobj(wbits=-15)
ENCODED: list[tuple[str, bytes]] = [
    *((name, PICTURE) for name in ("utf-8", "binary", "none", "aws-chunked", "", "identity", "8bit, UTF-8", ",,", "x")),
    *((name, ZIPPED) for name in ("gzip", "GZip", "x-gzip", "aws-chunked,gzip", "utf-8, gzip", "gzip, identity")),
    ("gzip", PICTURE),
    ("deflate", zlib.compress(PICTURE)),
    ("deflate", BARE.compress(PICTURE) + BARE.flush()),
    ("deflate, gzip", gzip.compress(zlib.compress(PICTURE), mtime=0)),
    ("gzip", gzip.compress(PICTURE[:9], mtime=0) + gzip.compress(PICTURE[9:], mtime=0)),
    ("gzip", ZIPPED + b"\0\0 behind the end"),
    # A file name in front, longer than one read.
    (
        "gzip, gzip",
        (outer := gzip.compress(ZIPPED, mtime=0))[:3] + b"\x08" + outer[4:10] + b"x" * 60_000 + b"\0" + outer[10:],
    ),
    ("gzip", b""),
]


@pytest.mark.parametrize(("encoding", "body"), ENCODED, ids=range(len(ENCODED)))
def test_an_encoding_is_taken_away_and_what_is_none_means_nothing(
    encoding: str, body: bytes, get: Callable[..., bytes], server: HttpsServer
) -> None:
    server.files["/encoded"], server.encoding = body, encoding
    assert get("/encoded") == (PICTURE if body else b"")


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br", "br, utf-8", "gzip, gzip, gzip"])
def test_an_encoding_that_was_not_asked_for_is_refused_in_words(
    encoding: str, get: Callable[..., bytes], server: HttpsServer
) -> None:
    server.files["/encoded"], server.encoding = ZIPPED, encoding
    with pytest.raises(DownloadFailed, match="content encoding"):
        get("/encoded")


def test_a_bomb_in_a_bomb_is_cut_off_as_well(get: Callable[..., bytes], server: HttpsServer) -> None:
    server.files["/encoded"], server.encoding = gzip.compress(server.bomb), "gzip, gzip"
    with flat_memory(20), pytest.raises(DownloadFailed, match="larger than the 100000 bytes"):
        get("/encoded")


def test_a_server_is_told_what_can_be_read(get: Callable[..., bytes], server: HttpsServer) -> None:
    get("/picture")
    accept = server.requests[0][1]["Accept"]
    assert all(f"image/{kind}" in accept for kind in ("png", "jpeg", "webp", "heic", "avif", "gif", "bmp", "tiff"))
    assert accept.endswith("*/*;q=0.1"), "some servers answer 406 where they find nothing of theirs"


@pytest.mark.parametrize("page", ["/liar", "/gzip-broken", "/brotli", "/garbage", "/fat-headers"])
def test_a_server_that_breaks_off_or_babbles_is_a_failed_download(page: str, get: Callable[..., bytes]) -> None:
    with pytest.raises(DownloadFailed):
        get(page)


# --- the network under it ---


def test_a_closed_port_is_a_failed_download(get: Callable[..., bytes]) -> None:
    with socket.socket() as taken:  # nobody listens there, and nobody else can
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(DownloadFailed):
            get(f"https://{HOST}:{port}/", ports=frozenset({port}))


def test_a_host_without_an_address_is_a_failed_download(get: Callable[..., bytes]) -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(DownloadFailed, match="no address"):
        get("/picture", resolve=unknown)


def test_a_name_server_that_does_not_answer_costs_the_deadline_and_no_more(get: Callable[..., bytes]) -> None:
    gone = threading.Event()

    def dead(host: str, port: int) -> Sequence[str]:
        gone.wait(20)
        return []

    start = time.monotonic()
    with pytest.raises(DownloadFailed, match=r"within 0\.5 seconds"):
        get("/picture", resolve=dead, deadline_seconds=0.5)
    gone.set()
    assert time.monotonic() - start < SOON_SECONDS


def test_a_server_that_never_shakes_hands_costs_the_deadline_and_no_more(get: Callable[..., bytes]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(DownloadFailed):
            get(f"https://{HOST}:{port}/", ports=frozenset({port}), deadline_seconds=0.7)
        assert time.monotonic() - start < SOON_SECONDS


def test_a_stop_request_ends_a_download_that_drips(get: Callable[..., bytes]) -> None:
    deadline = time.monotonic() + 0.5

    def raise_if_stopped() -> None:
        if time.monotonic() > deadline:
            raise Cancelled

    start = time.monotonic()
    with pytest.raises(Cancelled):
        get("/drip", raise_if_stopped)
    assert time.monotonic() - start < SOON_SECONDS


def test_no_message_holds_a_url_a_host_or_an_address(get: Callable[..., bytes], server: HttpsServer) -> None:
    pages = ["/status/500", "/hops/20", "/to?http://secret.example/", "/endless", "/liar", "/garbage", "/brotli"]
    for page in pages:
        with pytest.raises(JobError) as caught:
            get(page)
        message = str(caught.value)
        assert message.split(": ")[1] == "image_url"
        assert not any(part in message for part in (HOST, "example", "127.0.0.1", str(server.port), page))


def test_the_default_context_checks_names_and_chains() -> None:
    context = http._system_tls()
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.keylog_filename is None
