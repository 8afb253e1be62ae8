"""A web server of this machine that fails as it is told to."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Server(http.server.ThreadingHTTPServer):
    """Answers each path with what is planned for it, one after another, the last for ever.

    Attributes:
        plans: Path to answers: a status, bytes, or ``(bytes, what)`` with ``'cut'`` to end early, ``'endless'`` to give no
            length and end early, ``'unannounced'`` to give no length, or seconds to wait in the middle.
        asked: The paths that were asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.plans: dict[str, list] = {}
        self.asked: list[str] = []
        self.turn = threading.Lock()

    def url(self, path: str) -> str:
        return f'http://127.0.0.1:{self.server_port}{path}'

    def answer(self, path: str):
        with self.turn:
            self.asked.append(path)
            plan = self.plans.get(path, [404])
            return plan.pop(0) if len(plan) > 1 else plan[0]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        answer = self.server.answer(self.path)
        if isinstance(answer, int):
            self.send_error(answer)
            return
        body, what = answer if isinstance(answer, tuple) else (answer, '')
        self.send_response(200)
        if what not in ('endless', 'unannounced'):
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        if isinstance(what, float):
            time.sleep(what)
        if what not in ('cut', 'endless'):
            self.wfile.write(body[half:])


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
