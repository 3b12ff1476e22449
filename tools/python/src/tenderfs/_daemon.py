"""Daemons and their admin API: HTTP over a Unix socket.

Whoever calls this may be a training loop, so nothing here waits for long: `ANSWER_SECONDS` is what a daemon that
hangs costs, and it is the bound of each single step of a request.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple, Optional
from urllib.parse import quote, urlencode

SOCKET_VARIABLE = "TENDERFS_ADMIN_SOCKET"

ANSWER_SECONDS = 2.0
"""Within this a daemon accepts a connection and answers a question. One that works does so in milliseconds."""

PLAN_BYTES_PER_SECOND = 10e6
"""A daemon that takes a plan slower than this hangs; one that works takes a hundred megabytes in about a second."""

ANSWER_BYTES_MAX = 16 << 20


class DaemonError(Exception):
    """No daemon could be asked, or it refused. The message says which, and what to do."""


class Mount(NamedTuple):
    """A mount that answers, and the daemon that serves it."""

    socket: Path
    mountpoint: str
    figures: dict[str, Any]
    """As the daemon's status gives them."""


class Daemon(NamedTuple):
    """A daemon that answers."""

    socket: Path
    status: dict[str, Any]

    def mounts(self) -> list[Mount]:
        """Its mounts, without those that were taken down."""
        all_mounts = self.status.get("mounts", [])
        living = (mount for mount in all_mounts if mount.get("state") != "unmounted")
        return [Mount(self.socket, str(mount["mountpoint"]), mount) for mount in living]


def sockets() -> list[Path]:
    """Where daemons of this user may answer: the one that the environment names, else every default one."""
    named = os.environ.get(SOCKET_VARIABLE)
    if named:
        return [Path(named)]
    found: list[Path] = []
    for folder in _run_folders():
        try:
            inside = [path for path in folder.iterdir() if path.suffix == ".sock"]
        except OSError:  # It is not there, or another user's.
            continue
        found += sorted(inside, key=lambda path: (path.name != "admin.sock", path.name))
    return found


def _run_folders() -> list[Path]:
    system = Path("/run/tenderfs")
    if os.geteuid() == 0:
        return [system]
    own = os.environ.get("XDG_RUNTIME_DIR")
    return [Path(own, "tenderfs") if own else Path(f"/tmp/tenderfs-{os.geteuid()}"), system]


def daemons() -> list[Daemon]:
    """Every daemon that answers. If there is none, the error says where one was looked for."""
    found: list[Daemon] = []
    failures: list[str] = []
    for path in sockets():
        try:
            found.append(Daemon(path, ask(path, "GET", "/v1/status")))
        except DaemonError as error:  # The socket of a daemon that was killed is still there.
            failures.append(str(error))
    if not found:
        looked = " and ".join(str(folder) for folder in _run_folders())
        why = "; ".join(failures) or f"there is no socket in {looked}, and {SOCKET_VARIABLE} is not set"
        raise DaemonError(f"no daemon answers: {why}")
    return found


def mounts() -> list[Mount]:
    """Every mount of every daemon that answers, the longest mount point first."""
    found = [mount for daemon in daemons() for mount in daemon.mounts()]
    return sorted(found, key=lambda mount: len(mount.mountpoint), reverse=True)


def route(*parts: str, **query: object) -> str:
    """A path of the API from its parts, each quoted, and its parameters."""
    path = "/v1/" + "/".join(quote(part, safe="") for part in parts)
    return f"{path}?{urlencode(query)}" if query else path


def ask(
    path: Path, method: str, target: str, body: Optional[bytes] = None, seconds: float = ANSWER_SECONDS
) -> Any:
    """Sends one request and returns the JSON that is answered."""
    connection = _UnixConnection(path, seconds)
    try:
        connection.request(method, target, body=body)
        response = connection.getresponse()
        text = response.read(ANSWER_BYTES_MAX)
        answer = json.loads(text)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DaemonError(f"no answer from {path}: {_reason(error)}") from error
    finally:
        connection.close()
    if response.status not in (200, 201):
        refusal = answer if isinstance(answer, dict) else {}
        said = refusal.get("error", f"status {response.status}")
        raise DaemonError(f"the daemon refused: {said}; {refusal.get('hint', 'its log says more')}")
    return answer


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError) or isinstance(error, socket.timeout):
        return "it took too long"
    return str(error) or type(error).__name__


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to whoever listens on a Unix socket."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("tenderfs", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(min(self._seconds, ANSWER_SECONDS))
        self.sock.connect(str(self._path))
        self.sock.settimeout(self._seconds)
