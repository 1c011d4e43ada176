"""Where a process lives: host, boot and PID namespace. A pid means nothing outside of these.

Homes are shared by the nodes of a cluster and by containers, so a record that one of them wrote
is read on another one. There, no pid in it can be judged.

References
----------
machine-id(5), which asks that the id itself is not passed on: a keyed hash of it is;
pid_namespaces(7); proc(5), ``/proc/[pid]/status``, ``NSpid``.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

NAMESPACE = "ALLSTOP_PID_NAMESPACE"
"""Environment variable for a program that continues a warden's work inside the warden's
namespace: the namespace outside, in which the pids of the run's records count."""

INITIAL_NAMESPACE = "4026531836"  # PROC_PID_INIT_INO, linux/include/linux/proc_ns.h
_MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")


class Host(NamedTuple):
    """Where a process lives; an empty part is not known, and not compared.

    Attributes
    ----------
    node : str
        The host's name.
    machine : str
        Hash of the installation's id; may be shared by nodes that boot from one image.
    boot : str
        The kernel's id of this boot.
    namespace : str
        Inode number of the PID namespace.
    """

    node: str = ""
    machine: str = ""
    boot: str = ""
    namespace: str = ""

    def is_same_host(self, other: Host) -> bool:
        """Whether name and machine are the same, as far as both are known."""
        return not (_differ(self.node, other.node) or _differ(self.machine, other.machine))

    def is_same_boot(self, other: Host) -> bool:
        """Whether the host has not been booted in between, as far as is known."""
        return self.is_same_host(other) and not _differ(self.boot, other.boot)

    def sees_pids_of(self, other: Host) -> bool:
        """Whether a pid means the same process to both."""
        return self.is_same_boot(other) and not _differ(self.namespace, other.namespace)

    @property
    def sees_all(self) -> bool:
        """Whether the processes of every PID namespace of this boot are visible from here."""
        return self.namespace == INITIAL_NAMESPACE


def this_host() -> Host:
    """Return where this process lives."""
    return _host()._replace(namespace=os.environ.get(NAMESPACE) or namespace_of(os.getpid()))


@cache
def _host() -> Host:
    """What cannot change for a process: it may become the first of another PID namespace."""
    return Host(os.uname().nodename, _machine(), boot_id())


def boot_id() -> str:
    """Return the kernel's id of this boot; empty where it cannot be read."""
    return _read("/proc/sys/kernel/random/boot_id")


def namespace_of(pid: int) -> str:
    """Return the PID namespace of a process; empty where that cannot be read."""
    try:
        link = str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""
    return link.removeprefix("pid:[").removesuffix("]")


def _machine() -> str:
    known = next(filter(None, map(_read, _MACHINE_IDS)), "")
    if not known:
        return ""
    return hashlib.blake2b(known.encode(), key=b"allstop", digest_size=8).hexdigest()


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):
        return ""


def _differ(one: str, other: str) -> bool:
    return bool(one and other and one != other)
