"""An S3 on loopback: moto's server, and a proxy-like layer before it that misbehaves when told to."""

import contextlib
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from wsgiref.types import StartResponse, WSGIEnvironment

from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "training"
PAGE = 20
"""How many names one answer lists, in place of S3's 1000."""
Refusal = Callable[[WSGIEnvironment], tuple[int, str, Mapping[str, str]] | None]
"""Looks at a request; returns status, S3 error code and headers of a refusal, or None to let it through."""


class S3:
    """A running server; ``environ`` is all that a client needs."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._moto = DomainDispatcherApplication(create_backend_app)
        self.faults: list[Refusal] = []
        self.requests: list[tuple[str, str]] = []
        """Method and path with query of all that came in."""
        self.tears = False
        """Answers to GET end in the middle."""
        self.date: str | None = None
        """What every answer says the time is; None: the truth."""
        server = self

        class Handler(WSGIRequestHandler):
            def date_time_string(self, timestamp: float | None = None) -> str:
                return server.date or super().date_time_string(timestamp)

            def log_request(self, *args: object) -> None:
                pass

        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.environ = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "example",
            "AWS_REGION": "us-east-1",
        }

    def client(self, service: str = "s3") -> object:
        from gitops_ml import aws

        return aws.client(service, self.environ)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> object:
        query = f"?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else ""
        self.requests.append((environ["REQUEST_METHOD"], urllib.parse.quote(environ["PATH_INFO"]) + query))
        for fault in list(self.faults):
            if (refusal := fault(environ)) is not None:
                status, code, headers = refusal
                body = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
                if "HTTP_X_AMZ_TARGET" in environ:  # of a service that speaks JSON
                    body = json.dumps({"__type": code, "message": "as told"}).encode()
                # What was sent is read, or the connection cannot be used again.
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start(f"{status} Told", [("Content-Type", "application/xml"), *headers.items()])
                return [body]
        if "list-type=2" in environ["QUERY_STRING"]:
            environ["QUERY_STRING"] += f"&max-keys={PAGE}"
        whole = self._moto(environ, start)
        if self.tears and environ["REQUEST_METHOD"] == "GET":
            return [data[: len(data) // 2] for data in whole]
        return whole


@contextlib.contextmanager
def serving() -> Iterator[S3]:
    """Yield a server with one bucket, ``BUCKET``."""
    server = S3()
    try:
        client = server.client()
        client.create_bucket(Bucket=BUCKET)  # type: ignore[attr-defined]
        client.close()  # type: ignore[attr-defined]
        server.requests.clear()
        yield server
    finally:
        server.close()
