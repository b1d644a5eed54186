"""Hosts on one machine: each with its own network, processes, home folder and sshd, on one bridge.

    laptop 10.77.0.254   the repository, an ssh key
    host 1 10.77.0.1     a home folder with an environment like that of `make environment`
    host 2 10.77.0.2     the same

They are namespaces of Linux: nothing listens outside of them, and all of it goes when they are
closed or this process dies. Hosts see the machine's files but not those of the repository: a host
runs only what was brought to it. Needs root and openssh-server.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[3]
NET = "10.77.0"
LAPTOP = 254
SBIN = "/usr/sbin:/sbin"
PROGRAMS = (
    "unshare",
    "nsenter",
    "ip",
    "sshd",
    "ssh",
    "ssh-keygen",
    "rsync",
    "pkill",
    "make",
    "curl",
)
NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")

# The first process of a host: everything there ends when its standard input does. Ignoring its
# children, it buries those that it inherits: Ray's workers live as long as their dead parent is in
# the process table.
BOOT = """set -e
mount --bind {folder} {here}
mkdir -p /tmp/ray
mount --bind {here}/ray /tmp/ray
ip link set lo up
{more}
echo up
trap '' CHLD
exec cat"""

# A host sees nothing of the repository but the environment that lies in it.
HIDE = """mkdir {lan}/here/environment
mount --bind {prefix} {lan}/here/environment
mount -t tmpfs none {root}
mkdir -p {prefix}
mount --bind {lan}/here/environment {prefix}
mount --bind {users} /etc/passwd"""

SSHD = """HostKey {lan}/hostkey
AuthorizedKeysFile {lan}/key.pub
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
"""


SSHD_USER = "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin"


def why_not() -> str | None:
    """Say why there can be no hosts here; None if there can."""
    if os.environ.get("PARETRIM_CLUSTER_TESTS") != "1":
        return "they start two hosts and take minutes; set PARETRIM_CLUSTER_TESTS=1"
    where = f"{os.environ['PATH']}:{SBIN}"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=where) is None]:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    tried = subprocess.run(["unshare", *NAMESPACES, "true"], capture_output=True, text=True)  # noqa: S603, S607
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


class Lan:
    """A laptop and some hosts; a context manager.

    Args:
        folder: An empty folder for all their files; on a short path, as sockets lie there.
        hosts: How many.
    """

    def __init__(self, folder: Path, hosts: int = 2) -> None:
        self.folder = folder
        self.key = folder / "key"
        self._first: dict[int, subprocess.Popen[str]] = {}
        (folder / "here").mkdir()
        for name in ("key", "hostkey"):
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
        address = f"ip addr add {NET}.{LAPTOP}/24 dev lan"
        bridge = f"ip link add lan type bridge; {address}; ip link set lan up"
        try:
            self._boot(LAPTOP, bridge)
            for host in range(1, hosts + 1):
                self._boot_host(host)
        except BaseException:
            self.close()
            raise

    def home(self, host: int) -> Path:
        """Return a host's home folder, seen from outside."""
        return self.folder / str(host) / "home"

    def command(self, host: int, *command: object) -> list[str]:
        """Return what runs a command inside a host."""
        target = ["nsenter", "--target", self._pid(host), "--net", "--mount", "--pid"]
        return [*target, "--", *map(str, command)]

    def run(self, host: int, *command: object) -> str:
        """Run a command inside a host; return what it printed.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        return _do(*self.command(host, *command))

    def laptop(self, *command: object) -> subprocess.Popen[str]:
        """Start a command in the repository of the laptop."""
        prefix = Path(sys.prefix) / "bin"
        environment = {
            "HOME": str(self.home(LAPTOP)),
            "PATH": f"{prefix}:{os.environ['PATH']}:{SBIN}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "TERM": "dumb",
            "TMPDIR": str(self.home(LAPTOP)),
        }
        return subprocess.Popen(  # noqa: S603
            self.command(LAPTOP, "env", "-C", ROOT, *command),
            env=environment, text=True, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def stop(self, process: subprocess.Popen[str]) -> None:
        """End a command of the laptop and all that it started, if it has not ended."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def cut(self, host: int) -> None:
        """Take a host off the network."""
        self.run(LAPTOP, "ip", "link", "set", f"v{host}", "down")

    def join(self, host: int) -> None:
        """Put a host back on the network."""
        self.run(LAPTOP, "ip", "link", "set", f"v{host}", "up")

    def close(self) -> None:
        """End everything in the hosts."""
        for first in self._first.values():
            first.kill()
            first.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _boot_host(self, host: int) -> None:
        environment = self.home(host) / ".venv"
        environment.mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "pyvenv.cfg"):
            if (Path(sys.prefix) / name).exists():
                (environment / name).symlink_to(Path(sys.prefix) / name)
        made_from = b"".join(
            (ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")
        )
        (environment / f"ready-{hashlib.sha256(made_from).hexdigest()[:16]}").touch()
        (self.home(host) / ".bashrc").touch()
        configuration = self.home(host).parent / "sshd.conf"
        configuration.write_text(SSHD.format(lan=self.folder))
        users = configuration.with_name("passwd")
        users.write_text(f"root:x:0:0::{self.folder / 'here' / 'home'}:/bin/bash\n{SSHD_USER}\n")
        self._boot(host, HIDE.format(lan=self.folder, root=ROOT, prefix=sys.prefix, users=users))

        cable = ("ip", "link", "add", f"v{host}", "type", "veth", "peer", "name", "eth0")
        # Not in the laptop's process table: the other end is named by a process outside.
        _do("nsenter", "--target", self._pid(LAPTOP), "--net", *cable, "netns", self._pid(host))
        self.run(LAPTOP, "ip", "link", "set", f"v{host}", "master", "lan", "up")
        self.run(host, "ip", "addr", "add", f"{NET}.{host}/24", "dev", "eth0")
        self.run(host, "ip", "link", "set", "eth0", "up")
        self.run(host, "mkdir", "-p", "/run/sshd")
        self.run(host, "/usr/sbin/sshd", "-f", self.folder / "here" / "sshd.conf")

    def _boot(self, host: int, more: str) -> None:
        folder = self.folder / str(host)
        (folder / "ray").mkdir(parents=True)
        self.home(host).mkdir(exist_ok=True)
        script = BOOT.format(folder=folder, here=self.folder / "here", more=more)
        first = subprocess.Popen(  # noqa: S603
            ["unshare", *NAMESPACES, "sh", "-c", script],  # noqa: S607
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._first[host] = first
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n", f"host {host} did not come up"

    def _pid(self, host: int) -> str:
        """Return the id of the host's first process, seen from outside."""
        unshare = self._first[host].pid
        return Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0]


def _do(*command: object) -> str:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:{SBIN}"}
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout  # noqa: S603
