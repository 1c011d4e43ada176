"""How a sweep is divided into jobs of a SLURM cluster."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from slurm.connect import connect
from supervisor.lifecycle import options
from supervisor.lifecycle.options import Given, Use


@dataclass(frozen=True, slots=True)
class ClusterOrder:
    """How a sweep is divided into cluster jobs; each value was checked on its own.

    Attributes
    ----------
    address : str
        ``local``, or ``ssh:HOST``.
    tasks : int
        Parts it is divided into.
    job : dict
        What each of them needs, see :class:`slurm.batch.job.Job`.
    lease_s : int
        How long the jobs keep running when this process is silent, in s; 0: without limit.
    detach : bool
        Let them outlive the run.
    python : str
        The interpreter there that has this package; empty: this one here, ``python3`` there.

    Raises
    ------
    ConfigError
        If the address names no host that can be connected to.
    """

    address: str = "local"
    tasks: int = 4
    job: dict[str, Any] = field(default_factory=dict)
    lease_s: int = 300
    detach: bool = False
    python: str = ""

    def __post_init__(self) -> None:
        connect(self.address).close()

    @classmethod
    def of(cls, given: Given) -> ClusterOrder | None:
        """Take it from the options that were set; None: the sweep is computed on this machine.

        Raises
        ------
        ConfigError
            As the class.
        """
        if not options.on_cluster(given):
            return None
        known = {item.name for item in fields(cls)}
        return cls(**{
            option.in_python: given[option.name]
            for option in options.used_for(Use.CLUSTER)
            if option.in_python in known and option.name in given
        })  # fmt: skip
