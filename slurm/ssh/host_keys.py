"""Reads ``known_hosts`` as OpenSSH does: which host keys are known, and which are revoked."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from supervisor.system.small_file import read_small

_REVOKED = "@revoked"
_AUTHORITY = "@cert-authority"
_SSH_PORT = 22
_MAX_BYTES = 64 * 2**20


class Verdict(Enum):
    """What the files say of a host key."""

    KNOWN = auto()
    UNKNOWN = auto()
    CHANGED = auto()
    REVOKED = auto()


class Finding(NamedTuple):
    """A verdict, and the line it is based on.

    Attributes
    ----------
    verdict : Verdict
        The verdict.
    line : str
        ``file, line n``; empty: no line is about the host.
    """

    verdict: Verdict
    line: str = ""


class _Entry(NamedTuple):
    marker: str
    patterns: tuple[str, ...]
    kind: str
    blob: bytes
    line: str


class KnownHosts:
    """The entries of one or more ``known_hosts`` files. A missing file has none.

    Raises
    ------
    OSError
        If a file exists and cannot be read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._entries = tuple(entry for file in files for entry in _read(file))

    def kinds(self, names: Iterable[str]) -> tuple[str, ...]:
        """Kinds of key that are known of a host; they are to be preferred."""
        found = [entry.kind for name in names for entry in self._plain(name)]
        return tuple(dict.fromkeys(found))

    def look_up(self, names: Sequence[str], kind: str, blob: bytes) -> Finding:
        """Look a host key up.

        Parameters
        ----------
        names : sequence of str
            The host's names, see :func:`names_of`. Another key under the first one means that
            the key has changed; under the others it means nothing.
        kind : str
            Kind of the key, as ``ssh-ed25519``.
        blob : bytes
            The public key.
        """
        for entry in self._entries:
            if entry.marker == _REVOKED and entry.blob == blob and _concerns(entry, names):
                return Finding(Verdict.REVOKED, entry.line)
        for name in names:
            for entry in self._plain(name):
                if entry.blob == blob:
                    return Finding(Verdict.KNOWN, entry.line)
        for entry in self._plain(names[0]):
            if entry.kind == kind:
                return Finding(Verdict.CHANGED, entry.line)
        return Finding(Verdict.UNKNOWN)

    def has_authority(self, names: Sequence[str]) -> bool:
        """Whether there is a certificate authority for the host; certificates are not supported."""
        return any(e.marker == _AUTHORITY and _concerns(e, names) for e in self._entries)

    def _plain(self, name: str) -> Iterator[_Entry]:
        return (e for e in self._entries if not e.marker and _matches(e.patterns, name))


def names_of(host: str, port: int, alias: str = "") -> tuple[str, ...]:
    """Names under which a host's key is looked up, its own first.

    As in OpenSSH, a host on another port than 22 is also recognised by an entry without a
    port, and an alias replaces the names.
    """
    if alias:
        return (alias.lower(),)
    host = host.lower()
    return (host,) if port == _SSH_PORT else (f"[{host}]:{port}", host)


def fingerprint(blob: bytes) -> str:
    """Return a public key's fingerprint as ``ssh-keygen -l`` shows it: ``SHA256:…``."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _read(file: Path) -> Iterator[_Entry]:
    try:
        text = read_small(file, _MAX_BYTES, pipe=False).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return
    for number, line in enumerate(text.splitlines(), 1):
        entry = _parse(line, f"{file}, line {number}")
        if entry is not None:
            yield entry


def _parse(line: str, where: str) -> _Entry | None:
    """Parse one line; a line that is no valid entry is ignored, as OpenSSH does."""
    words = line.split()
    marker = words.pop(0) if words and words[0].startswith("@") else ""
    if len(words) < 3 or words[0].startswith("#"):
        return None
    patterns, kind, key = words[:3]
    try:
        blob = base64.b64decode(key, validate=True)
    except binascii.Error:
        return None
    return _Entry(marker, tuple(patterns.split(",")), kind, blob, where)


def _concerns(entry: _Entry, names: Sequence[str]) -> bool:
    return any(_matches(entry.patterns, name) for name in names)


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    if any(p.startswith("!") and _matches_one(p[1:], name) for p in patterns):
        return False
    return any(_matches_one(p, name) for p in patterns)


def _matches_one(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        return _matches_hashed(pattern, name)
    # not fnmatch: the brackets of [host]:port are not a character class
    expression = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, name) is not None


def _matches_hashed(pattern: str, name: str) -> bool:
    try:
        salt, hashed = (base64.b64decode(part, validate=True) for part in pattern.split("|")[2:4])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), hashed)
