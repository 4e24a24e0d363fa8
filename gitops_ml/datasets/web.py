"""Downloads over HTTP that survive torn connections and distrust the server.

- What arrived stays: a torn download goes on where it stopped (``Range``), a bounded number of times.
- A credential goes to the host that it was given for and to no other, also when a server redirects.
- Addresses that mean this machine or its cloud's metadata service are refused, wherever a URL or a redirect leads:
  a spec may come from a stranger. ``GITOPS_ML_ALLOW_HOSTS`` names hosts that are meant (comma-separated), which may
  also be asked without TLS.
- A server that drips, never ends or sends another length than it announced is given up.
"""

import base64
import contextlib
import http.client
import ipaddress
import json
import re
import shutil
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from gitops_ml.datasets.base import DatasetError, Outside, UnreachableError

MAX_REDIRECTS = 5
TRIES = 5
"""In a row that bring next to nothing; and twenty times as many in all."""
_WORTHWHILE_BYTES = 1 << 20
_SILENCE_S = 30.0
_WINDOW_S, _WINDOW_BYTES = 60.0, 60_000
"""A minute that brings less than this is a server that drips."""
_CHUNK_BYTES = 1 << 18
_DOCUMENT_BYTES = 64 << 20
_LONGEST_PAUSE_S = 60.0
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

# Beside loopback and link-local addresses: the metadata services of AWS, Google, Azure, Alibaba and Oracle.
_METADATA = tuple(
    map(
        ipaddress.ip_network,
        ("fd00:ec2::/32", "fd20:ce::/32", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.0/24"),
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Web:
    """Asks servers; one for each user, cheap to make."""

    def __init__(
        self,
        outside: Outside,
        *,
        now: Callable[[], float] = time.monotonic,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self._environ = outside.environ
        self._wait = outside.wait
        self._say = outside.say
        self._now = now
        self._silence_s = silence_s
        allowed = self._environ.get("GITOPS_ML_ALLOW_HOSTS", "")
        self._allowed = frozenset(host.strip().lower().strip("[]") for host in allowed.split(",") if host.strip())

    def document(
        self, url: str, *, private: Mapping[str, str] | None = None, body: Any = None, media: str = "application/json"
    ) -> tuple[Any, Mapping[str, str]]:
        """Return a JSON document and the answer's headers.

        Args:
            url: where.
            private: headers that this host alone may see.
            body: sent as JSON, with POST; None: GET.
            media: the media type of question and answer.

        Raises:
            DatasetError: refused, not reachable, or no JSON.
        """

        def ask() -> tuple[Any, Mapping[str, str]]:
            data = None if body is None else json.dumps(body).encode()
            headers = {"Accept": media} | ({"Content-Type": media} if data is not None else {})
            with self._answer(url, headers, private or {}, data) as response:
                self._judge(url, response)
                text = bytearray()
                for chunk in self._chunks(response):
                    text += chunk
                    if len(text) > _DOCUMENT_BYTES:
                        raise DatasetError(f"{shown(url)}: the answer is longer than {_DOCUMENT_BYTES} bytes")
                if _announced(response) not in (None, len(text)):
                    raise _TornError("the connection ended early")
                try:
                    return json.loads(text), {k.lower(): v for k, v in response.getheaders()}
                except (ValueError, RecursionError):
                    raise DatasetError(f"{shown(url)}: the answer is no JSON") from None

        found: tuple[Any, Mapping[str, str]] = self._persist(url, ask, lambda: 0)
        return found

    def download(
        self,
        url: str,
        into: Path,
        *,
        size_bytes: int | None = None,
        private: Mapping[str, str] | None = None,
    ) -> None:
        """Write what the URL holds into the file; one that is there already is continued.

        Args:
            url: where.
            into: the file.
            size_bytes: how much it must be, if that is known.
            private: headers that this host alone may see.

        Raises:
            DatasetError: refused, not reachable, of another size, or too large for the disk.
        """
        tag = ""

        def have() -> int:
            return into.stat().st_size if into.exists() else 0

        def get() -> None:
            nonlocal tag
            start = have()
            if size_bytes is not None and start > size_bytes:
                into.unlink()
                start = 0
            elif start == size_bytes and start > 0:
                return
            headers = {"Range": f"bytes={start}-"} if start else {}
            if start and tag:
                headers["If-Range"] = tag
            with self._answer(url, headers, private or {}, None) as response:
                if response.status == 416:
                    if response.getheader("Content-Range", "") == f"bytes */{start}":
                        return  # all of it was here already
                    into.unlink(missing_ok=True)
                    raise _TornError("the server cannot continue the download")
                self._judge(url, response)
                start = _start(url, response, start)
                # A weak tag does not promise equal bytes.
                tag = response.getheader("ETag", "")
                tag = "" if tag.startswith("W/") else tag
                self._receive(url, response, into, start, size_bytes)

        self._persist(url, get, have)

    def _receive(
        self, url: str, response: http.client.HTTPResponse, into: Path, start: int, size_bytes: int | None
    ) -> None:
        if response.getheader("Content-Encoding", "identity") not in ("identity", ""):
            raise DatasetError(f"{shown(url)}: the server sends the content packed, which was not asked for")
        announced = _announced(response)
        total = None if announced is None else start + announced
        if size_bytes is not None and total not in (None, size_bytes):
            raise DatasetError(f"{shown(url)}: the server announces {total} bytes, and {size_bytes} are expected")
        free = shutil.disk_usage(into.parent).free
        if announced is not None and announced > free:
            raise DatasetError(
                f"{shown(url)}: {announced} bytes do not fit on the disk, which has {free} free at {into.parent}"
            )
        done = start
        with _writing(into) as file:
            file.truncate(start)
            file.seek(start)
            for chunk in self._chunks(response):
                _write(file, chunk, into)
                done += len(chunk)
                if size_bytes is not None and done > size_bytes:
                    raise DatasetError(f"{shown(url)}: the server sends more than the {size_bytes} bytes expected")
        if done != (total if total is not None else size_bytes or done):
            raise _TornError("the connection ended early")

    def _chunks(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """Yield the answer's bytes as they come; a server that drips is left."""
        since, came = self._now(), 0
        while True:
            self._wait(0)
            chunk = response.read1(_CHUNK_BYTES)
            if not chunk:
                return
            came += len(chunk)
            took_s = self._now() - since
            if took_s >= _WINDOW_S:
                if came < _WINDOW_BYTES:
                    raise _TornError(f"only {came} bytes came in {took_s:.0f} s")
                since, came = self._now(), 0
            yield chunk

    def _persist(self, url: str, act: Callable[[], Any], have: Callable[[], int]) -> Any:
        """Do it, again and again while there is hope."""
        vain = 0
        why = ""
        for _ in range(TRIES * 20):
            before = have()
            pause_s = 0.0
            try:
                return act()
            except _TornError as torn:
                why, pause_s = str(torn), torn.pause_s
            except (http.client.HTTPException, OSError) as error:
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise DatasetError(f"{shown(url)}: {error.verify_message}") from error
                why = _said(error)
            vain = 0 if have() - before >= _WORTHWHILE_BYTES else vain + 1
            if vain >= TRIES:
                break
            self._say(f"{shown(url)}: {why}; trying again")
            self._wait(max(pause_s, min(2.0**vain, 30.0)))
        raise UnreachableError(f"{shown(url)}: given up after {TRIES} tries in a row: {why}")

    def _judge(self, url: str, response: http.client.HTTPResponse) -> None:
        """Accept a good answer; raise for any other."""
        status = response.status
        if status in (200, 206):
            return
        if status in _AGAIN:
            after = response.getheader("Retry-After", "")
            pause_s = min(float(after), _LONGEST_PAUSE_S) if re.fullmatch("[0-9]{1,6}", after) else 0.0
            raise _TornError(f"the server answers {status}", pause_s)
        words = {
            401: "the server asks for credentials (401)",
            403: "the server refuses (403); are credentials needed, and right?",
            404: "there is nothing (404), or nothing that may be seen without credentials",
            410: "it is gone (410)",
        }
        raise DatasetError(f"{shown(url)}: {words.get(status, f'the server answers {status}')}")

    @contextlib.contextmanager
    def _answer(
        self, url: str, headers: Mapping[str, str], private: Mapping[str, str], body: bytes | None
    ) -> Iterator[http.client.HTTPResponse]:
        """Yield the answer to a request, redirects followed."""
        url = _spelt(url)
        first, method = _origin(url), "GET" if body is None else "POST"
        for _ in range(MAX_REDIRECTS + 1):
            own = private if _origin(url) == first else {}
            parts = _split(url)
            connection = self._connection(parts)
            guard = None
            try:
                connection.connect()
                guard = _Guard(connection.sock, self._wait, self._silence_s * 2)
                target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
                if parts.scheme == "http" and connection.host != parts.hostname:  # a proxy takes whole URLs
                    target = url
                sent = {"Accept-Encoding": "identity", "User-Agent": "gitops-ml", **headers, **own}
                if target == url:
                    sent |= self._proxy_login(parts.scheme)
                connection.request(method, target, body=body, headers=sent)
                response = connection.getresponse()
                guard.answered = True
                if response.status not in _REDIRECTS:
                    yield response
                    return
                onward = response.getheader("Location")
            except UnicodeError:
                raise DatasetError(f"{shown(url)} is no URL that can be asked") from None
            finally:
                if guard is not None:
                    guard.done.set()
                connection.close()
            if not onward:
                raise DatasetError(f"{shown(url)}: the server redirects without saying where to")
            if response.status == 303:
                method, body = "GET", None
            try:
                url = _spelt(urllib.parse.urljoin(url, onward))
            except ValueError:
                raise DatasetError(f"{shown(url)}: the server redirects to something that is no URL") from None
        raise DatasetError(f"{shown(url)}: redirected more than {MAX_REDIRECTS} times")

    def _connection(self, parts: urllib.parse.SplitResult) -> http.client.HTTPConnection:
        """Return a connection that goes only where it may."""
        try:
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port = "", None
        trusted = host in self._allowed
        if not host or parts.scheme not in ("https", "http"):
            raise DatasetError(f"{shown(parts.geturl())} is no https:// URL")
        if parts.scheme == "http" and not trusted:
            raise DatasetError(
                f"{shown(parts.geturl())}: data comes over https:// alone; a host that is trusted without it "
                "is named in GITOPS_ML_ALLOW_HOSTS"
            )
        proxy = self._proxy(parts.scheme, host)
        if proxy is not None:
            if not trusted:
                _refuse_reserved(host, _addresses_or_none(host))
            via_host, via_port = proxy
            if parts.scheme == "http":
                return http.client.HTTPConnection(via_host, via_port, timeout=self._silence_s)
            tunnel = http.client.HTTPSConnection(via_host, via_port, timeout=self._silence_s, context=self._context())
            tunnel.set_tunnel(host, port or 443, self._proxy_login(parts.scheme))
            return tunnel
        made: http.client.HTTPConnection
        if parts.scheme == "http":
            made = http.client.HTTPConnection(host, port or 80, timeout=self._silence_s)
        else:
            made = http.client.HTTPSConnection(host, port or 443, timeout=self._silence_s, context=self._context())
        if not trusted:
            # Checked where it is dialled, not before: a name may lead elsewhere the second time that it is asked for.
            made._create_connection = _dial  # type: ignore[attr-defined]  # noqa: SLF001 its one seam
        return made

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._environ.get("SSL_CERT_FILE"))

    def _proxy(self, scheme: str, host: str) -> tuple[str, int] | None:
        environ = {name.lower(): value for name, value in self._environ.items() if name.lower().endswith("_proxy")}
        parts = self._proxy_parts(scheme)
        if parts is None or urllib.request.proxy_bypass_environment(  # type: ignore[attr-defined]
            host, {"no": environ.get("no_proxy", "")}
        ):
            return None
        return (parts.hostname, parts.port or 8080) if parts.hostname else None

    def _proxy_parts(self, scheme: str) -> urllib.parse.SplitResult | None:
        named = self._environ.get(f"{scheme}_proxy") or self._environ.get(f"{scheme.upper()}_PROXY") or ""
        return urllib.parse.urlsplit(named if "://" in named else f"http://{named}") if named else None

    def _proxy_login(self, scheme: str) -> dict[str, str]:
        parts = self._proxy_parts(scheme)
        if parts is None or parts.username is None:
            return {}
        user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        return {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}


def shown(url: str) -> str:
    """Return a URL as messages may show it: without credentials and query, which may hold a signature."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "what is no URL"
    host = parts.netloc.rpartition("@")[2]
    text = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else parts.path
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:300]


def is_reserved(address: str) -> bool:
    """Say whether an address means this machine, or where clouds keep credentials for it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_reserved(str(inner))
    return (
        ip.is_loopback
        or ip.is_link_local
        or ip.is_unspecified
        or ip.is_multicast
        or any(ip.version == net.version and ip in net for net in _METADATA)
    )


def refuse_reserved(url: str, environ: Mapping[str, str]) -> None:
    """Refuse a URL that leads to a reserved address; for clients that dial themselves.

    Raises:
        DatasetError: it does, and its host is not among ``GITOPS_ML_ALLOW_HOSTS``.
    """
    host = urllib.parse.urlsplit(url).hostname or ""
    allowed = {name.strip().lower() for name in environ.get("GITOPS_ML_ALLOW_HOSTS", "").split(",")}
    if host not in allowed:
        _refuse_reserved(host, _addresses_or_none(host))


class _TornError(Exception):
    """It may go better the next time."""

    def __init__(self, why: str, pause_s: float = 0.0) -> None:
        super().__init__(why)
        self.pause_s = pause_s


def _spelt(url: str) -> str:
    """Return the URL in characters that a request may have."""
    return urllib.parse.quote(url, safe="/:?#[]@!$&'()*+,;=%~")


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[BinaryIO]:
    try:
        opened = file.open("r+b" if file.exists() else "xb")
    except OSError as error:
        raise DatasetError(f"cannot write {file}: {error.strerror or error}") from error
    with opened:
        yield opened


def _write(file: BinaryIO, chunk: bytes, path: Path) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise DatasetError(f"cannot write {path}: {error.strerror or error}") from error


def _split(url: str) -> urllib.parse.SplitResult:
    try:
        return urllib.parse.urlsplit(url)
    except ValueError:
        raise DatasetError(f"an address that cannot be read was given: {url[:60]!r}") from None


def _origin(url: str) -> tuple[str, str]:
    parts = _split(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


def _announced(response: http.client.HTTPResponse) -> int | None:
    """Return the length of the body as the server announces it."""
    length = response.getheader("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None


def _start(url: str, response: http.client.HTTPResponse, asked: int) -> int:
    """Return where in the file the answer's bytes belong."""
    if response.status != 206:
        return 0
    found = re.match(r"bytes ([0-9]{1,18})-", response.getheader("Content-Range", ""))
    if found is None or int(found[1]) != asked:
        raise DatasetError(f"{shown(url)}: the server sends another part of the file than it was asked for")
    return asked


def _dial(address: tuple[str, int], timeout: float, _source: object = None) -> socket.socket:
    host, port = address
    found = _addresses(host)
    _refuse_reserved(host, found)
    last: OSError | None = None
    for one in found:
        if is_reserved(one):
            continue
        try:
            return socket.create_connection((one, port), timeout)
        except OSError as error:
            last = error
    raise ConnectionError(_said(last) if last else "no address")


def _addresses(host: str) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def _addresses_or_none(host: str) -> list[str]:
    try:
        return _addresses(host)
    except (socket.gaierror, UnicodeError):
        return []  # behind a proxy only that knows the name


def _refuse_reserved(host: str, addresses: list[str]) -> None:
    if addresses and all(map(is_reserved, addresses)):
        also = "" if addresses[0] == host else f" {addresses[0]},"
        raise DatasetError(
            f"{host} is{also} an address of this machine or of its cloud's metadata, and no source of data. "
            "If it is meant, name the host in GITOPS_ML_ALLOW_HOSTS"
        )


class _Guard(threading.Thread):
    """Ends a connection whose answer does not begin, or that nobody wants any more: who reads from it then wakes."""

    def __init__(self, sock: socket.socket, wait: Callable[[float], None], limit_s: float) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.answered = False
        self._sock = sock
        self._wait = wait
        self._until = time.monotonic() + limit_s
        self.start()

    def run(self) -> None:
        """Look now and then until the connection is done with."""
        while not self.done.wait(0.2):
            try:
                self._wait(0)
                given_up = not self.answered and time.monotonic() > self._until
            except BaseException:  # noqa: BLE001 whoever reads is told the same when it wakes
                given_up = True
            if given_up:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)
                return


def _said(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.HTTPException):
        return "the server does not speak HTTP" if str(error) else "the connection ended early"
    return str(getattr(error, "strerror", "") or error or type(error).__name__)
