"""Makes a transport from the address of a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping

from slurm.environment import KEPT
from slurm.local import LocalTransport
from slurm.transport import NO_VARIABLES, Transport
from supervisor.errors import ConfigError

SSH_CONFIG = "ALLSTOP_SSH_CONFIG"
"""Environment variable that names a file to read instead of ``~/.ssh/config``."""

_FOUND_BY: tuple[str, ...] = (*KEPT, "PATH")


def connect(address: str = "local", variables: Mapping[str, str] = NO_VARIABLES) -> Transport:
    """Return the transport to a cluster; it connects at its first call.

    Parameters
    ----------
    address : str
        ``local``, or ``ssh:HOST`` with a host of ``~/.ssh/config`` or ``user@host``.
    variables : mapping of str to str
        Environment variables for the commands, over those of this process.
    """
    if address == "local":
        return LocalTransport(variables)
    kind, _, host = address.partition(":")
    if kind == "ssh" and host:
        from slurm.ssh.transport import SshTransport

        config = variables.get(SSH_CONFIG) or os.environ.get(SSH_CONFIG)
        return SshTransport(host, config=config)
    raise ConfigError(f"cluster {address!r} is neither 'local' nor 'ssh:HOST'", key="cluster")


def found_by(transport: Transport) -> dict[str, str]:
    """Environment variables that a later process needs to reach the same cluster."""
    environment, names = dict(os.environ), _FOUND_BY
    if isinstance(transport, LocalTransport):
        environment |= transport.variables
    else:
        names = (SSH_CONFIG,)
    return {name: environment[name] for name in names if name in environment}
