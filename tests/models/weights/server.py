"""A web server on this machine that offers one file, well or badly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What the server does, and what it was asked.

    Attributes:
        content: the bytes of the file, under whatever path.
        ranges: whether it can begin in the middle.
        pauses_after: bytes of a body after which it waits until this is None again.
        breaks_after: bytes of a body after which the connection is closed; None for never.
        announces: whether it says how long the body is.
        status: a fault to answer with in place of the file.
        shift: added to the first byte of the range that it says it sends.
        asked: the `Range` of every request, empty where there was none.
        sent: bytes of all bodies.
    """

    content: bytes
    ranges: bool = True
    pauses_after: int | None = None
    breaks_after: int | None = None
    announces: bool = True
    status: int | None = None
    shift: int = 0
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    url: str = ""


@contextmanager
def serving(content: bytes, **behaviour: object) -> Iterator[FileServer]:
    """A running server; its attributes can be changed while it runs."""
    server = FileServer(content, **behaviour)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            server.asked.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
            if server.status is not None:
                self.send_error(server.status)
            elif start and start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._send_from(start)

        def _send_from(self, start: int) -> None:
            total = len(server.content)
            body = server.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start + server.shift}-{total - 1}/{total}")
            if server.announces:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            body = body[: server.breaks_after]
            if server.pauses_after is not None:
                self.wfile.write(body[: server.pauses_after])
                while server.pauses_after is not None:
                    time.sleep(0.01)
                return
            # Counted first: the client has the last byte before this thread goes on.
            server.sent += len(body)
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listener.server_address[1]}/weights/file.pth"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
