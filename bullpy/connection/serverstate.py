"""Which server runs in an embedded server's folder, and who owns it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

_REPLY_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerState:
    """What a folder's `state.json` says; start times tell a process from a later namesake."""

    pid: int = 0
    started: str = ""
    port: int = 0
    socket: str | None = None
    run_id: str = ""
    owner: int = 0
    owner_started: str = ""

    @classmethod
    def read(cls, folder: Path) -> ServerState | None:
        """What the folder says, None if it says nothing."""
        try:
            return cls(**json.loads((folder / "state.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Let the folder say this."""
        write_private(folder / "state.json", json.dumps(asdict(self)))

    def runs(self) -> bool:
        """Whether the server's process lives."""
        return same_process(self.pid, self.started)

    def ask_run_id(self, pid: int, password: str | None) -> str | None:
        """The server's run_id; None while the process `pid` does not answer, or loads its data."""
        command = "" if password is None else f"AUTH {password}\r\n"
        command += "PING\r\nINFO server\r\nQUIT\r\n"
        family = socket.AF_INET if self.socket is None else socket.AF_UNIX
        try:
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.settimeout(2.0)
                connection.connect(self.socket or ("127.0.0.1", self.port))
                connection.sendall(command.encode())
                reply = b""
                while len(reply) < _REPLY_LIMIT and (data := connection.recv(65536)):
                    reply += data
        except OSError:
            return None
        # The port may have gone to another server between our look and the bind.
        if b"+PONG" not in reply or b"\r\nprocess_id:%d\r\n" % pid not in reply:
            return None
        _, _, rest = reply.partition(b"run_id:")
        return rest.partition(b"\r")[0].decode() or None


def started_at(pid: int) -> str:
    """When a process started, in the system's words; empty if there is none (or a zombie)."""
    if pid <= 0:
        return ""
    stat = Path(f"/proc/{pid}/stat")
    try:
        # The name in brackets may hold anything, so count the fields after its end.
        fields = stat.read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return ""
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def same_process(pid: int, started: str) -> bool:
    """Whether the process that started then lives still."""
    return bool(started) and started_at(pid) == started


def write_private(path: Path, text: str) -> None:
    """Write a file for the user alone, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
