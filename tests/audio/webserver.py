"""A real web server on the loopback that answers as a test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import NamedTuple


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    at: float


Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's table of paths."""

    server: WebServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append(Asked(self.command, self.path, headers, time.monotonic()))
        self.close_connection = True
        try:
            self.server.answers.get(self.path, status(404))(self)
        except ConnectionError:
            pass  # the client has gone: what the test wanted

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, format: str, *args: object) -> None:
        pass


class WebServer(ThreadingHTTPServer):
    """Answers by path.

    Attributes:
        answers: What is done for a path, as it was sent; 404 for others.
        asked: The requests so far.
        released: Set at the end, for answers that wait.
    """

    daemon_threads = True

    def __init__(self, host: str, tls: SSLContext | None = None) -> None:
        super().__init__((host, 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[Asked] = []
        self.released = threading.Event()
        self.waiting = threading.Event()
        self._scheme = "https" if tls else "http"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    def url(self, path: str = "/", host: str | None = None, user: str = "") -> str:
        return f"{self._scheme}://{user}{host or self.server_address[0]}:{self.server_port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that goes away is what some tests are about


@contextmanager
def web_server(host: str = "127.0.0.1", tls: SSLContext | None = None) -> Iterator[WebServer]:
    with WebServer(host, tls) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def content(body: bytes, **headers: str) -> Answer:
    """200 with that body; underscores in names of headers are dashes."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)

    return answer


def status(code: int, **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def in_turn(*answers: Answer) -> Answer:
    """The first for the first request, and so on; the last for all that follow."""
    left = list(answers)

    def answer(handler: Handler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return answer


def endless(handler: Handler) -> None:
    """Chunks for ever, without a Content-Length."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while not handler.server.released.is_set():
        handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def stuck_in_body(handler: Handler) -> None:
    """A beginning, and then nothing."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(bytes(500))
    handler.server.waiting.set()
    handler.server.released.wait(30)


def stuck_at_once(handler: Handler) -> None:
    """Nothing."""
    handler.server.waiting.set()
    handler.server.released.wait(30)


def cut_off(handler: Handler) -> None:
    """Half of what was announced."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(bytes(500))


def cut_off_chunks(handler: Handler) -> None:
    """A chunk, and no last one."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"5\r\nhello\r\n")
