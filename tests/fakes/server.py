"""A small HTTP server on loopback that keeps a log and fails on command; the fakes of both forges stand on it."""

import contextlib
import dataclasses
import json
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as it came in."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer; ``body`` is sent as JSON unless it is bytes."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True)
class Fault:
    """Something that goes wrong with matching requests.

    ``kind``: ``answer`` (``answer`` is sent), ``reset`` (the connection breaks), ``hang`` (no answer comes), ``cut``
    (half of the answer's body), ``garbage`` (200 with text that is no JSON), ``drip`` (an answer that never ends).
    ``after``: the request took effect first. ``skip`` leaves the first ones alone, ``times`` bounds how often it
    happens.
    """

    kind: str
    method: str = "GET|POST|PATCH|PUT|DELETE"
    path: str = ".*"
    contains: str = ""
    after: bool = False
    skip: int = 0
    times: int = 1
    answer: Answer = Answer(status=502, body={"message": "Server Error"})
    then: Callable[[], None] | None = None

    def hits(self, call: Call) -> bool:
        """Whether it is this request's turn; counts."""
        if not (re.fullmatch(self.method, call.method) and re.fullmatch(self.path, call.path)):
            return False
        if self.contains.encode() not in call.body or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class Loopback(ThreadingHTTPServer):
    """Serves on a free port of loopback; a client that went away is nothing to report, all else is."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what a handler raised, as the base class does, unless its client hung up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Server:
    """Subclasses answer in ``handle``. What a client did against the documents is noted in ``violations``."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.violations: list[str] = []
        self.before_answer: Callable[[Call], None] = lambda call: None
        """Runs when a request has taken effect and nothing has been sent: to hold it there."""
        self.lock = threading.RLock()
        self._ending = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def _serve(self) -> None:
                fake._serve(self)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do_HEAD = _serve  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        self._server = Loopback(Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def handle(self, call: Call) -> Answer:
        """Answer a request; called by one thread at a time."""
        raise NotImplementedError

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Serve until the block ends."""
        self._thread.start()
        try:
            yield
        finally:
            self._ending.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(5)

    def sent(self, method: str, path: str = ".*") -> list[Call]:
        """Return the requests that came in so far."""
        return [call for call in self.calls if call.method == method and re.fullmatch(path, call.path)]

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        call = Call(
            method=handler.command,
            path=parts.path,
            query={key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()},
            headers={key.lower(): value for key, value in handler.headers.items()},
            body=_body(handler),
        )
        with self.lock:
            self.calls.append(call)
            fault = next((one for one in self.faults if one.hits(call)), None)
            answer = Answer()
            if fault is None or fault.after or fault.kind in ("cut", "garbage"):
                answer = self.handle(call)
            if fault and fault.then:
                fault.then()
        self.before_answer(call)
        if fault is None:
            _send(handler, answer)
        elif fault.kind == "answer":
            _send(handler, fault.answer)
        elif fault.kind == "garbage":
            _send(handler, Answer(body=b"<html>all good</html>", headers={"Content-Type": "text/html"}))
        elif fault.kind == "cut":
            _send(handler, answer, cut=True)
            handler.close_connection = True
        elif fault.kind == "drip":
            _drip(handler, self._ending)
        else:
            if fault.kind == "hang":
                self._ending.wait(30)
            # With linger 0 the close is a TCP reset, as when a proxy dies.
            with contextlib.suppress(OSError):  # the client had enough of waiting
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    # git sends a push over 1 MiB in chunks.
    body = b""
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


def _drip(handler: BaseHTTPRequestHandler, ending: threading.Event) -> None:
    """Send a byte of an answer that never ends, ten times a second."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.close_connection = True
    with contextlib.suppress(OSError):
        while not ending.wait(0.1):
            handler.wfile.write(b" ")
            handler.wfile.flush()


def _send(handler: BaseHTTPRequestHandler, answer: Answer, *, cut: bool = False) -> None:
    body = answer.body if isinstance(answer.body, bytes) else b""
    if answer.body is not None and not isinstance(answer.body, bytes):
        body = json.dumps(answer.body).encode()
    handler.send_response(answer.status)
    headers = {"Content-Type": "application/json; charset=utf-8", **answer.headers, "Content-Length": str(len(body))}
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(body[: len(body) // 2] if cut else body)
        handler.wfile.flush()
