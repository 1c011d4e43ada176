"""A fake NVML for this process's children, and device files that a test can open."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.system.gpu_files import DIRECTORY_VARIABLE
from tests.support.gpu import fakes

MIB = 2**20
UUID = "GPU-00000000-1111-2222-3333-444444444444"


def gpu(uuid: str = UUID, used: int = 0, **facts: object) -> str:
    """A line about a GPU; see ``fake_nvml.c``."""
    told: dict[str, object] = {"uuid": uuid, "name": "Fake_H100", "total": 80 * 1024 * MIB}
    told |= {"used": used, "reserved": 500 * MIB, "persistence": 1, **facts}
    return "gpu " + " ".join(f"{key}={value}" for key, value in told.items())


def process(pid: int, held: int | str, on: str = UUID) -> str:
    """A line about a process on a GPU; ``held``: bytes, or ``none``."""
    return f"process on={on} pid={pid} bytes={held}"


def living(pid: int, held: int, on: str = UUID) -> str:
    """The same of a process whose bytes come back with its death, as from a real driver."""
    return f"{process(pid, held, on)} alive=1"


@dataclass
class FakeNvml:
    """The library's answers, which a test may change at any time.

    Attributes
    ----------
    root : Path
        A directory of the test's own.
    """

    root: Path
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files = self.root / "dev"
        self.files.mkdir()
        for name in ("nvidiactl", "nvidia0", "nvidia-uvm"):
            (self.files / name).touch()
        self.say(gpu())

    def say(self, *lines: str) -> None:
        """Replace all that the library answers."""
        self.lines = list(lines)
        written = self.root / "nvml.new"
        written.write_text("".join(f"{line}\n" for line in lines))
        written.replace(self.root / "nvml")

    @property
    def listed(self) -> bool:
        """Whether a device's processes have been listed: the last thing that a baseline needs."""
        return (self.root / "nvml.listed").exists()

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to find it."""
        library = fakes.build("fake_nvml.c", "libnvidia-ml.so.1")
        before = os.environ.get("LD_LIBRARY_PATH")
        return {
            "LD_LIBRARY_PATH": ":".join([str(library), *([before] if before else [])]),
            "FAKE_NVML": str(self.root / "nvml"),
            DIRECTORY_VARIABLE: str(self.files),
        }
