"""The real things for tests: a lab that serves a folder as S3, a daemon, and a mount of it.

They are built by `cargo build`, or lie in the folder that TENDERFS_BIN_DIR names.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Optional

from tenderfs._daemon import DaemonError, ask

REPOSITORY = Path(__file__).resolve().parents[3]
LIMIT_SECONDS = 60.0
BUCKET = "training"


def obstacle() -> Optional[str]:
    """Why nothing can be mounted here, in one sentence; None if it can."""
    if not os.access("/dev/fuse", os.W_OK):
        return "no writable /dev/fuse"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "neither root nor fusermount3"
    if binaries() is None:
        return "tenderfs and tenderfsd are not built: run `cargo build --workspace`"
    return None


def binaries() -> Optional[Path]:
    """The folder of the programs: as told, else the one that was built last."""
    named = os.environ.get("TENDERFS_BIN_DIR")
    folders = [Path(named)] if named else [REPOSITORY / "target" / kind for kind in ("debug", "release")]
    built = [folder for folder in folders if (folder / "tenderfsd").exists() and (folder / "tenderfs").exists()]
    return max(built, key=lambda folder: (folder / "tenderfsd").stat().st_mtime, default=None)


def eventually(what: str, check: Any) -> Any:
    """Asks until the answer is true; fails when it takes too long."""
    end = time.monotonic() + LIMIT_SECONDS
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


class Stage:
    """A lab with a bucket, and a daemon that mounts it. To be used by `with`."""

    def __init__(self, settings: Optional[dict[str, dict[str, str]]] = None, first_byte: str = "0ms") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tenderfs-python-"))
        self.bucket = self.folder / "s3" / BUCKET
        self.mountpoint = self.folder / "mnt"
        self.socket = self.folder / "run" / "admin.sock"
        for folder in (self.bucket, self.mountpoint, self.socket.parent):
            folder.mkdir(parents=True)
        self._settings = settings or {}
        self._first_byte = first_byte
        self._lab: Optional[subprocess.Popen[str]] = None
        self._daemon: Optional[subprocess.Popen[bytes]] = None
        self._greeting: dict[str, str] = {}

    def __enter__(self) -> Stage:
        return self

    def put(self, key: str, content: bytes) -> Path:
        """Puts an object, before the start; gives back where it will be seen."""
        path = self.bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return self.mountpoint / key

    def start(self) -> Stage:
        self._start_lab()
        self.start_daemon()
        return self

    def _start_lab(self) -> None:
        program = binaries()
        assert program is not None
        command = [program / "tenderfs", "lab", "--listen", "127.0.0.1:0", "--folder", self.folder / "s3"]
        command += ["--first-byte", self._first_byte]
        self._lab = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
        assert self._lab.stdout is not None
        for line in self._lab.stdout:
            if line.startswith("export "):
                name, value = line[len("export ") :].strip().split("=", 1)
                self._greeting[name] = value
            if line.startswith("# control"):
                self._greeting["control"] = line.split(": ", 1)[1].split(";")[0]
                return
        raise AssertionError("the lab ended before it served")

    def start_daemon(self) -> None:
        program = binaries()
        assert program is not None
        config = self.folder / "tenderfs.toml"
        config.write_text(self._config())
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "AWS_EC2_METADATA_DISABLED": "true"}
        environment.update({name: self._greeting[name] for name in self._greeting if name.startswith("AWS_")})
        with (self.folder / "daemon.log").open("ab") as log:
            command = [str(program / "tenderfsd"), "--config", str(config)]
            self._daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        daemon = self._daemon

        def is_ready() -> bool:
            assert daemon.poll() is None, (self.folder / "daemon.log").read_text()
            try:
                return bool(ask(self.socket, "GET", "/v1/status")["state"] == "ready")
            except DaemonError:
                return False

        eventually("the daemon to be ready", is_ready)

    def _config(self) -> str:
        tables: dict[str, dict[str, str]] = {
            "daemon": {"cores": "2", "pin_cores": "false", "admin_socket": json.dumps(str(self.socket))},
            "memory": {"limit": '"256MiB"'},
            # A second request for what is late is right, and not what these tests count.
            "s3": {"hedging": "false"},
            "cache": {"dir": json.dumps(str(self.folder / "cache")), "size": '"1GiB"'},
        }
        for name, table in self._settings.items():
            tables.setdefault(name, {}).update(table)
        lines = []
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{key} = {value}" for key, value in table.items())]
        mount = {"bucket": BUCKET, "mountpoint": str(self.mountpoint)}
        mount["endpoint_url"] = self._greeting["AWS_ENDPOINT_URL"]
        mount["region"] = self._greeting["AWS_REGION"]
        lines += ["[[mount]]", *(f"{key} = {json.dumps(value)}" for key, value in mount.items())]
        return "\n".join(lines) + "\n"

    def signal_daemon(self, number: int) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(number)

    def stop_daemon(self, number: int = signal.SIGTERM) -> None:
        if self._daemon is None:
            return
        self._daemon.send_signal(signal.SIGCONT)
        self._daemon.send_signal(number)
        try:
            self._daemon.wait(LIMIT_SECONDS)
        finally:
            if self._daemon.poll() is None:
                self._daemon.kill()
                self._daemon.wait()
            self._daemon = None
        if os.path.ismount(self.mountpoint) or number == signal.SIGKILL:
            subprocess.run(["umount", "-l", str(self.mountpoint)], check=False, stderr=subprocess.DEVNULL)

    def control(self, method: str, path: str) -> Any:
        request = urllib.request.Request(self._greeting["control"].rstrip("/") + path, method=method)
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as response:
            return json.load(response)

    def gets(self) -> list[dict[str, Any]]:
        """Every GET of an object so far, in the order in which they arrived."""
        return [entry for entry in self.control("GET", "/ledger")["entries"] if entry["operation"] == "get"]

    def __exit__(self, *_: object) -> None:
        try:
            self.stop_daemon()
        finally:
            if self._lab is not None:
                self._lab.send_signal(signal.SIGINT)
                self._lab.wait(LIMIT_SECONDS)
                assert self._lab.stdout is not None
                self._lab.stdout.close()
            shutil.rmtree(self.folder)
