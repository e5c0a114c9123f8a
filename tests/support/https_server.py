"""A real HTTPS server on 127.0.0.1 with misbehaving pages, for the tests of downloads."""

import datetime
import gzip
import ipaddress
import ssl
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "pictures.example"
PICTURE = b"\x89PNG and so on" * 100


class Pages(BaseHTTPRequestHandler):
    """One page for each kind of misbehaviour."""

    protocol_version = "HTTP/1.1"
    server: "HttpsServer"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        page = getattr(self, "page_" + self.path.strip("/").split("?")[0].split("/")[0].replace("-", "_"), None)
        if page:
            page()
        else:
            self._send(200, self.server.files.get(self.path, PICTURE))

    def page_status(self) -> None:
        self._send(int(self.path.rsplit("/", 1)[1]), b"an error page")

    def page_to(self) -> None:
        self._send(302, b"", Location=self.path.split("?", 1)[1])

    def page_raw(self) -> None:
        """Redirect to `locations`, byte for byte, then show the picture."""
        if not self.server.locations:
            self._send(200, PICTURE)
            return
        location = self.server.locations.pop(0)
        self.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")

    def page_encoded(self) -> None:
        self._send(200, self.server.files["/encoded"], **{"Content-Encoding": self.server.encoding})

    def page_hops(self) -> None:
        left = int(self.path.rsplit("/", 1)[1])
        self._send(307, b"", Location=f"/hops/{left - 1}" if left > 1 else "/picture")

    def page_nowhere(self) -> None:
        self._send(302, b"no location")

    def page_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(bytes(65536))

    def page_drip(self) -> None:
        """Send the headers at once, then a byte now and then."""
        self.send_response(200)
        self.end_headers()
        self._drip(b"x" * 1000)

    def page_drip_headers(self) -> None:
        self._drip(b"HTTP/1.1 200 OK\r\n" + b"X-Padding: aaaa\r\n" * 100)

    def page_liar(self) -> None:
        """Promise more than it sends."""
        content = self.server.files.get(self.path, PICTURE)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + 10))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def page_huge_length(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "99999999999")
        self.end_headers()
        self._drip(b"x" * 100)

    def page_gzip(self) -> None:
        self._send(200, gzip.compress(PICTURE), **{"Content-Encoding": "gzip"})

    def page_gzip_bomb(self) -> None:
        self._send(200, self.server.bomb, **{"Content-Encoding": "gzip"})

    def page_gzip_broken(self) -> None:
        self._send(200, gzip.compress(PICTURE)[:-9], **{"Content-Encoding": "gzip"})

    def page_brotli(self) -> None:
        self._send(200, b"whatever", **{"Content-Encoding": "br"})

    def page_cookie(self) -> None:
        self._send(302, b"", Location="/picture", **{"Set-Cookie": "a=b; Path=/"})

    def page_garbage(self) -> None:
        self.wfile.write(b"\x00\x01\x02 this is not HTTP\r\n\r\n")
        self.close_connection = True

    def page_fat_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-Padding: " + b"a" * 300_000 + b"\r\n\r\n")
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class named it
        """Log nothing."""

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, data: bytes) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.closing.wait(0.1):
                return


class HttpsServer(ThreadingHTTPServer):
    """Use as a context manager; `tls` is the client's context, which trusts only this server."""

    daemon_threads = True

    def __init__(self, host: str = HOST) -> None:
        super().__init__(("127.0.0.1", 0), Pages)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.files: dict[str, bytes] = {}
        self.locations: list[bytes] = []
        self.encoding = ""
        self.bomb = gzip.compress(bytes(300_000_000), compresslevel=1)
        self.closing = threading.Event()
        certificate, key = _certificate(host)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "server.pem"
            path.write_bytes(key + certificate)
            context.load_cert_chain(path)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.tls = ssl.create_default_context(cadata=certificate.decode())
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that hang up: the tests provoke that."""

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return int(self.server_address[1])

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


def _certificate(host: str) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    names = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.9"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def loopback(_host: str, _port: int) -> list[str]:
    """Resolve every host to this machine, so that a `Fetcher` finds the server."""
    return ["127.0.0.1"]


def anywhere(_address: object) -> bool:
    """Allow every address to be dialled."""
    return True
