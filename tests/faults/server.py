"""A small HTTP server on 127.0.0.1 that misbehaves as told, and the catalogue entry of the one file that it has."""

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from realesr_cli.catalog import CatalogEntry

Handler = BaseHTTPRequestHandler
Reply = Callable[["Server", Handler], None]


@dataclass
class Server:
    """`replies` are used up first, one for each request; then everything is served properly."""

    content: bytes
    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    """The Range header of each request so far."""
    sent_bytes: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    """Set at the end, so that stalled replies end."""

    def entry(self, **changes: object) -> CatalogEntry:
        facts = {
            "name": "tiny",
            "kind": "upscaler",
            "file_name": "Tiny.pth",
            "urls": (f"{self.url}/Tiny.pth",),
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "size_bytes": len(self.content),
            "scale": 4,
            "architecture": "RRDBNet",
            "licence": "MIT",
            "description": "for tests",
            "aliases": (),
        }
        return CatalogEntry(**(facts | changes))


def proper(server: Server, handler: Handler, *, cut: int | None = None, with_ranges: bool = True) -> None:
    """The file, or the rest that Range asks for; the connection closes after `cut` bytes of body."""
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(wanted[1]) if wanted and with_ranges and handler.headers.get("If-Range", '"1"') == '"1"' else None
    size = len(server.content)
    if start is not None and start >= size:
        handler.send_response(416)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(200 if start is None else 206)
    if start is not None:
        handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    handler.send_header("ETag", '"1"')
    send(server, handler, server.content[start or 0 :], cut=cut)


def send(server: Server, handler: Handler, body: bytes, *, cut: int | None = None) -> None:
    """The end of the head, with the true length, and the body up to `cut`."""
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    body = body[:cut]
    server.sent_bytes += len(body)
    handler.wfile.write(body)


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[Server]:
    server = Server(content)

    class _Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.ranges.append(self.headers.get("Range"))
            reply = server.replies.pop(0) if server.replies else proper
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                reply(server, self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        http.server_close()
        thread.join()
