"""Machine code kept between runs: digest-checked files in a private directory.

A file's name is ``<name>-<source>-<machine><suffix>``: what was compiled, the sources' digest,
and all else that the code depends on. A file that is not as it was written, or that another user
may have written, is not there; files of the same name from older sources go when a new one is
written.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from supervisor.system import private_dir

_DIGEST_BYTES = 20
_KEY_BYTES = 6


@dataclass(frozen=True)
class CodeCache:
    """Where one compiler's code is kept.

    Parameters
    ----------
    beside : Path
        The package whose code it is: kept in its ``__pycache__`` where that lies in a source
        tree, and this user can write it and no other; else in the user's cache directory, of
        which pip knows nothing when it uninstalls. Only in ``ALLSTOP_CACHE_DIR`` where
        that is set.
    suffix : str
        Of the files' names, such as ``.o``.
    """

    beside: Path
    suffix: str

    def places(self) -> list[Path]:
        """Directories in which code is looked for and kept, in the first that allows it."""
        named = private_dir.named("ALLSTOP_CACHE_DIR")
        if named:
            return [named / "kernels"]
        compiled = self.beside / "__pycache__"
        beside = compiled.is_dir() and not is_installed(self.beside)
        places = [compiled] if beside else []  # Python's, and readable for all
        with contextlib.suppress(RuntimeError):  # no home directory
            places.append(private_dir.cache_home() / "kernels")
        return places

    def read(self, name: str, source: str, machine: str) -> bytes | None:
        """Code from the cache; None when it is not there, or not as it was written."""
        file_name = self._file_name(name, source, machine)
        for place in self.places():
            try:
                content = private_dir.read(place, file_name)
            except (OSError, private_dir.UntrustedPlaceError):
                continue
            digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if _digest(file_name, code) == digest:
                return code
        return None

    def write(self, name: str, source: str, machine: str, code: bytes) -> None:
        """Keep code where that is possible, and drop what older sources left.

        Other machines' code for the same sources stays: home directories are shared.
        """
        import tempfile  # only where something was compiled

        file_name = self._file_name(name, source, machine)
        for place in self.places():
            try:
                private_dir.make(place)
                with tempfile.NamedTemporaryFile(dir=place, delete=False) as file:
                    file.write(_digest(file_name, code) + code)
                Path(file.name).replace(place / file_name)
            except (OSError, private_dir.UntrustedPlaceError):
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


def _digest(file_name: str, code: bytes) -> bytes:
    """Digest of code under its name: a file that was renamed is not other code."""
    return hashlib.blake2b(file_name.encode() + b"\0" + code, digest_size=_DIGEST_BYTES).digest()


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
