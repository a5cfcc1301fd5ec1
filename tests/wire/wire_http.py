"""HTTP on loopback: requests in, answers out, and no thread or connection left at the end."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import zstandard
from tinker.proto import tinker_public_pb2 as pb

PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True)
class Request:
    """route: of the path, after /api/v1/. body: JSON or, of forward_backward, the message."""

    method: str
    route: str
    headers: dict[str, str]
    body: Any = None
    raw: bytes = b""

    @property
    def contents(self) -> bytes:
        """What a request that is sent again has in common with the first: the SDK counts one more sampler
        each time it asks for one."""
        if self.route != "save_weights_for_sampler":
            return self.raw
        return json.dumps(self.body | {"sampling_session_seq_id": 0}).encode()


@dataclass(frozen=True)
class Answer:
    """body: JSON, or a message's bytes. status 0: the connection is dropped, without a word."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


DROPPED = Answer(0)


class Server(ThreadingHTTPServer):
    daemon_threads = False  # `server_close` waits for them
    request_queue_size = 128

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.connections = answer, set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client was gone before its answer; whatever else went wrong fails a test."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.shutdown()
        for connection in list(self.connections):
            _hang_up(connection)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer goes out whole
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None: ...

    def _serve(self) -> None:
        request = self._read()
        answer = self.server.answer(request)
        if not answer.status:
            self.close_connection = True
            _hang_up(self.connection)
            return
        binary = isinstance(answer.body, bytes)
        body = answer.body if binary else b"" if answer.body is None else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", PROTOBUF if binary else "application/json")
        self.send_header("Content-Length", str(len(body)))
        if request.route == "client/config":  # the SDK asks on a connection that it never closes itself
            self.send_header("Connection", "close")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET = do_DELETE = _serve

    def _read(self) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        raw = self.rfile.read(int(headers.get("content-length", 0)))
        if headers.get("content-encoding") == "zstd":
            raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        body: Any = None
        if headers.get("content-type") == PROTOBUF:
            body = pb.ForwardBackwardRequest.FromString(raw)
        elif raw:
            body = json.loads(raw)
        route = self.path.removeprefix("/api/v1/")
        return Request(self.command.lower(), route, headers, body, raw)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other side was first
        pass
