"""Other libraries that are measured beside ours, one a file.

Each file imports its library in :meth:`~bench.harness.peer.Peer.prepare`, so that the list of
peers needs none of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass

from bench.harness.peer import Peer


@dataclass(frozen=True, slots=True)
class Listed:
    """A peer's file, and why it cannot be measured (empty if it can)."""

    module: str
    peer: Peer
    missing: str


def list_peers() -> list[Listed]:
    """Look at every peer there is, in the order of their files' names."""
    found = []
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        peer: Peer = importlib.import_module(f"bench.peers.{info.name}").PEER
        installed = importlib.util.find_spec(peer.package) is not None
        found.append(Listed(info.name, peer, "" if installed else "not installed"))
    return found
