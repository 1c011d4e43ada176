"""A cluster with the way to it, and the faults of both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from tests.cluster.daemon import new_directory
from tests.cluster.lab import Lab
from tests.cluster.proxy import Proxy
from tests.cluster.sshd import Sshd


@dataclass(frozen=True)
class Site:
    """A cluster, and the way to it over SSH."""

    lab: Lab
    sshd: Sshd
    proxy: Proxy

    @classmethod
    @contextlib.contextmanager
    def up(cls) -> Iterator[Self]:
        """Start one; it is gone at the end."""
        with contextlib.ExitStack() as stack:
            lab = Lab(new_directory())
            stack.callback(lab.down)
            lab.up()
            sshd = Sshd(new_directory(), {"SLURM_CONF": str(lab.slurm_conf)})
            stack.callback(sshd.down)
            sshd.up()
            proxy = stack.enter_context(Proxy(sshd.port))
            sshd.trust("proxy", proxy.port)
            yield cls(lab, sshd, proxy)

    def reset(self) -> None:
        """Undo every fault."""
        self.reset_link()
        self.lab.reset()

    def reset_link(self) -> None:
        """Undo every fault of the way to it."""
        self.proxy.heal()
        self.sshd.thaw()
        if self.sshd.listener.identity is None:
            self.sshd.start()

    @contextlib.contextmanager
    def fault(self, fault: str) -> Iterator[None]:
        """Have a fault while the body runs; ``none`` is one too."""
        lab, sshd, proxy = self.lab, self.sshd, self.proxy
        begin: dict[str, Callable[[], None]] = {
            "none": lambda: None,
            "frozen": lab.slurmctld.freeze,
            "controller dead": lab.slurmctld.kill,
            "munge frozen": lab.munged.freeze,
            "munge dead": lab.munged.kill,
            "link cut": proxy.cut,
            "link stalled": proxy.stall,
            "link refused": lambda: (proxy.refuse(), proxy.cut())[1],
            "sshd dead": sshd.kill,
            "sshd frozen": sshd.freeze,
        }
        begin[fault]()
        try:
            yield
        finally:
            self.reset_link()
            for daemon in (lab.munged, lab.slurmctld):
                daemon.thaw()
                daemon.start()
            lab.wait_ready()
