"""Somebody who listens where a daemon would: it keeps the plans that it is given, word for word, which a daemon does
not tell, or misbehaves in ways in which a daemon should not."""

from __future__ import annotations

import json
import re
import socketserver
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

MOUNTPOINT = "/mnt/data"


class Recorder:
    """To be used by `with`. `manners`: well, refuse, hang, close, garbage."""

    def __init__(self, manners: str = "well", mountpoints: tuple[str, ...] = (MOUNTPOINT,)) -> None:
        self.manners = manners
        self.mountpoints = mountpoints
        self.plans: list[tuple[dict[str, str], list[str]]] = []
        """Query, with the job in it, and lines of each plan."""
        self._folder = tempfile.TemporaryDirectory(prefix="tenderfs-python-")
        self.socket = Path(self._folder.name, "admin.sock")
        self.over = threading.Event()

    def __enter__(self) -> Recorder:
        recorder = self

        class Handler(_Handler):
            keeper = recorder

        self._server = _Server(str(self.socket), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._folder.cleanup()

    def forget(self) -> None:
        """As a daemon that started anew."""
        self.plans.clear()

    def orders(self) -> dict[int, list[str]]:
        """The lines of the last plan for each epoch."""
        return {int(query["epoch"]): lines for query, lines in self.plans}


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


class _Handler(BaseHTTPRequestHandler):
    keeper: Recorder

    def do_GET(self) -> None:
        if not self._behave():
            return
        if self.path == "/v1/status":
            mounts = [{"mountpoint": one, "state": "mounted", "source": "s3://a"} for one in self.keeper.mountpoints]
            self._answer(200, {"mounts": mounts, "cache": {}})
            return
        job = self.path.split("/")[3]
        which = dict(parse_qsl(urlsplit(self.path).query))
        plans = [
            {"epoch": int(query["epoch"]), "rank": int(query["rank"]), "entries": len(lines)}
            for query, lines in self.keeper.plans
            if (query["job"], query["mount"]) == (job, which["mount"])
        ]
        self._answer(200 if plans else 404, {"epochs": plans, "error": "no such job", "hint": ""})

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if not self._behave():
            return
        if self.keeper.manners == "refuse":
            self._answer(400, {"error": "line 3: a length of 0", "hint": "write it otherwise"})
            return
        url = urlsplit(self.path)
        found = re.fullmatch(r"/v1/jobs/([^/]+)/plans", url.path)
        assert found
        self.keeper.plans.append(({"job": found[1], **dict(parse_qsl(url.query))}, text.splitlines()))
        self._answer(201, {})

    def _behave(self) -> bool:
        manners = self.keeper.manners
        if manners == "hang":
            self.keeper.over.wait()
        elif manners == "garbage":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot JSON!")
        elif manners in ("well", "refuse"):
            return True
        self.close_connection = True
        return False

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"
