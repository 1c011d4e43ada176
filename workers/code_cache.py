"""Machine code kept between runs: digest-checked files in a private directory.

A file's name is ``<name>-<source>-<machine><suffix>``: what was compiled, the sources' digest,
and all else that the code depends on. A file that is not as it was written is not there; files
of the same name from older sources go when a new one is written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_DIGEST_BYTES = 20
_KEY_BYTES = 6


@dataclass(frozen=True)
class CodeCache:
    """Where one compiler's code is kept.

    Parameters
    ----------
    beside : Path
        The package whose code it is: kept in its ``__pycache__`` where that is writable and lies
        in a source tree, else in the user's cache directory, or in ``ALLSTOP_CACHE_DIR`` where
        that is set.
    suffix : str
        Of the files' names, such as ``.o``.
    """

    beside: Path
    suffix: str

    def places(self) -> list[Path]:
        """Directories in which code is looked for and kept, the first writable one."""
        named = os.environ.get("ALLSTOP_CACHE_DIR")
        if named:
            return [Path(named) / "kernels"]
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        own = Path(base) / "allstop" / "kernels"
        return [own] if is_installed(self.beside) else [self.beside / "__pycache__", own]

    def read(self, name: str, source: str, machine: str) -> bytes | None:
        """Code from the cache; None when it is not there, or not as it was written."""
        for place in self.places():
            try:
                content = (place / self._file_name(name, source, machine)).read_bytes()
            except OSError:
                continue
            digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.blake2b(code, digest_size=_DIGEST_BYTES).digest() == digest:
                return code
        return None

    def write(self, name: str, source: str, machine: str, code: bytes) -> None:
        """Keep code where that is possible, and drop what older sources left.

        Other machines' code for the same sources stays: home directories are shared.
        """
        import tempfile  # only where something was compiled

        digest = hashlib.blake2b(code, digest_size=_DIGEST_BYTES).digest()
        for place in self.places():
            try:
                place.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=place, delete=False) as file:
                    file.write(digest + code)
                Path(file.name).replace(place / self._file_name(name, source, machine))
            except OSError:
                continue
            for stale in place.glob(f"{name}-*{self.suffix}"):
                if f"-{source}-" not in stale.name:
                    stale.unlink(missing_ok=True)
            return

    def _file_name(self, name: str, source: str, machine: str) -> str:
        return f"{name}-{source}-{machine}{self.suffix}"


def is_installed(folder: Path) -> bool:
    """Whether pip has put a folder there: uninstalling, it removes only its own files."""
    return not {"site-packages", "dist-packages"}.isdisjoint(folder.parts)


def key_of_files(paths: Iterable[Path]) -> str:
    """A digest that changes when the content of *any* of the files does."""
    digest = hashlib.blake2b(digest_size=_KEY_BYTES)
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of_facts(*facts: str) -> str:
    """A digest that changes with any of the facts."""
    digest = hashlib.blake2b(digest_size=_KEY_BYTES)
    for fact in facts:
        digest.update(fact.encode() + b"\0")
    return digest.hexdigest()
