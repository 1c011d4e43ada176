"""NVML's answers as values: what is missing has one reason, and no figure is invented."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.lifecycle.gpu.observer import Observer, WatchedDevice
from supervisor.lifecycle.gpu.release import Before, Whose
from supervisor.system import gpu_files, nvml_errors
from supervisor.system.gpus import Gpu, ProcessList, Source
from supervisor.system.process import Identity
from tests.support.cli import ROOT
from tests.support.gpu.fake_nvml import MIB, UUID, FakeNvml, gpu, process
from tests.support.gpu.holder import hold, let_go

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

ASK = """
import json, sys
from dataclasses import asdict
from supervisor.system.nvml import Nvml
from supervisor.system.nvml_errors import GpuLost, NvmlUnavailable
try:
    nvml = Nvml.open()
    said = {"driver": nvml.driver_version, "cuda": nvml.cuda_version, "divided": nvml.divided()}
    said["unreachable"] = nvml.unreachable()
    said["devices"] = [asdict(one) for one in nvml.devices()]
    for uuid in sys.argv[1:] or [one["uuid"] for one in said["devices"]]:
        said[uuid] = {
            "memory": asdict(nvml.memory(uuid)),
            "processes": asdict(nvml.processes(uuid)),
            "persistent": nvml.persistent(uuid),
        }
    nvml.close()
except GpuLost as error:
    said = {"lost": error.uuid, "why": error.why}
except NvmlUnavailable as error:
    said = {"why": error.why, "fix": error.fix}
print(json.dumps(said))
"""


@pytest.fixture
def fake(tmp_path: Path) -> FakeNvml:
    return FakeNvml(tmp_path)


def ask(fake: FakeNvml, *uuids: str, **env: str) -> dict[str, Any]:
    """Ask NVML in a process of its own, as a library stays loaded."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, *uuids],
        env=os.environ | fake.env | {"PYTHONPATH": str(ROOT)} | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_device_its_memory_and_its_processes(fake: FakeNvml) -> None:
    fake.say("driver 580.159", "cuda 13020", gpu(used=7 * MIB, minor=3), process(12, 5 * MIB))
    said = ask(fake)
    assert (said["driver"], said["cuda"], said["divided"]) == ("580.159", "13.2", [])
    assert said["devices"] == [
        {
            "uuid": UUID, "index": 0, "name": "Fake H100", "total_bytes": 80 * 1024 * MIB,
            "mig": False, "minor": 3,
        }
    ]  # fmt: skip
    found = said[UUID]
    # the newer call leaves out what the driver keeps for itself
    assert found["memory"]["used_bytes"] == 7 * MIB
    assert found["memory"]["source"] == "v2"
    assert found["processes"] == {"bytes_of": {"12": 5 * MIB}, "source": "process", "why": ""}
    assert found["persistent"] is True


@pytest.mark.parametrize("code", [nvml_errors.NO_FUNCTION, nvml_errors.NOT_SUPPORTED])
def test_an_old_driver_counts_what_it_keeps_and_that_is_said(fake: FakeNvml, code: int) -> None:
    fake.say(gpu(used=7 * MIB), f"error memory_v2 {code}")
    memory = ask(fake)[UUID]["memory"]
    assert (memory["used_bytes"], memory["source"]) == (507 * MIB, "v1")


@pytest.mark.parametrize(
    ("lines", "bytes_of", "source", "why"),
    [
        ([], {}, "process", ""),
        ([process(1, MIB), process(1, MIB)], {"1": MIB}, "process", ""),
        ([process(1, "none")], {"1": None}, "device", "the driver does not tell the bytes"),
        ([process(1, "none"), process(1, MIB)], {"1": MIB}, "process", ""),
        (
            ["driver 550.54", process(1, 0), process(2, 0)],
            {"1": None, "2": None},
            "device",
            "driver 550.54 tells 0 bytes for processes that hold some (in containers, fixed in",
        ),
        (["driver 580.1", process(1, 0)], {"1": None}, "device", "driver 580.1 tells 0 bytes"),
        (["error processes_v3 13", process(1, MIB)], {"1": MIB}, "process", ""),
        (
            ["error processes_v3 13", "error processes_v2 13"],
            {}, "device", "the driver does not list the processes of this device",
        ),
        (["error processes 4"], {}, "device", "this user may not see which processes"),
    ],
    ids=[
        "none", "twice", "not told", "told once", "zero in a container", "zero", "old call",
        "no call", "no permission",
    ],
)  # fmt: skip
def test_bytes_that_are_not_told_are_none_with_the_reason(
    fake: FakeNvml, lines: list[str], bytes_of: dict[str, Any], source: str, why: str
) -> None:
    fake.say(gpu(), *lines)
    found = ask(fake)[UUID]["processes"]
    assert (found["bytes_of"], found["source"]) == (bytes_of, source)
    assert found["why"].startswith(why)
    assert bool(found["why"]) == (source == "device")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (nvml_errors.NO_DRIVER, "the NVIDIA kernel driver is not loaded"),
        (nvml_errors.MISMATCH, "the driver's library and its kernel module have different"),
        (nvml_errors.NO_PERMISSION, "this user may not open the GPU's device files"),
        (999, "NVML answers: "),
    ],
)
def test_each_way_to_be_unavailable_has_its_reason(fake: FakeNvml, code: int, why: str) -> None:
    fake.say(f"init {code}")
    said = ask(fake)
    assert said["why"].startswith(why)
    assert said["fix"] or code == 999


def test_no_library_and_no_binding(fake: FakeNvml, tmp_path: Path) -> None:
    said = ask(fake, LD_LIBRARY_PATH="")
    assert said["why"].startswith("libnvidia-ml.so.1 was not found")
    (tmp_path / "pynvml.py").write_text("raise ImportError('no')\n")
    said = ask(fake, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert said["why"] == "the Python package nvidia-ml-py is not installed"


def test_an_old_binding_is_named_not_raised(fake: FakeNvml, tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(
        "class NVMLError(Exception): value = 0\ndef nvmlInit(): pass\ndef nvmlShutdown(): pass\n"
    )
    said = ask(fake, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert said["why"].startswith("the installed nvidia-ml-py is too old: it has no nvml")
    assert "pip install" in said["fix"]


def test_wsl_names_where_its_library_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_errors, "in_wsl", lambda: True)

    class Missing(Exception):
        value = nvml_errors.NO_LIBRARY

    said = nvml_errors.unavailable(Missing())
    assert "WSL" in said.why
    assert "/usr/lib/wsl/lib" in said.fix


def test_a_lost_device_leaves_the_others(fake: FakeNvml) -> None:
    fake.say(gpu(error=nvml_errors.LOST), gpu("GPU-b", MIB))
    assert [one["uuid"] for one in ask(fake)["devices"]] == ["GPU-b"]
    assert ask(fake, UUID)["lost"] == UUID
    assert ask(fake, "GPU-c")["why"] == "there is no GPU GPU-c"
    fake.say(gpu(error=nvml_errors.LOST))
    assert ask(fake)["unreachable"] == ["GPU 0: the driver has lost a GPU"]


def test_a_divided_gpu_stands_for_its_instances(fake: FakeNvml) -> None:
    fake.say(
        gpu("GPU-a"), gpu("GPU-b", mig=1, minor=1),
        f"instance of=1 uuid=MIG-a name=Slice total={10 * MIB} used={MIB}",
        process(4, MIB, "MIG-a"),
    )  # fmt: skip
    said = ask(fake)
    assert [(one["uuid"], one["index"], one["mig"]) for one in said["devices"]] == [
        ("GPU-a", 0, False),
        ("MIG-a", 1, True),
    ]
    assert said["divided"] == ["Fake H100"]
    assert said["devices"][1]["minor"] == 1
    assert said["MIG-a"]["processes"]["bytes_of"] == {"4": MIB}


# -- device files --------------------------------------------------------------------------------


@pytest.fixture
def files(fake: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(gpu_files.DIRECTORY_VARIABLE, str(fake.files))
    return fake.files


def test_a_holder_is_known_by_its_descriptors(files: Path) -> None:
    uses = hold(files / "nvidiactl", files / "nvidia0", files / "nvidia-uvm")
    monitor = hold(files / "nvidiactl", files / "nvidia0")
    ours = hold(files / "nvidia-uvm", env={"ALLSTOP_RUN_ID": "run-7"})
    try:
        found = {one.who.pid: one for one in gpu_files.look_for_holders().holders}
        assert found.keys() == {uses.pid, monitor.pid, ours.pid}
        assert found[uses.pid].who == Identity.of(uses.pid)
        assert (found[uses.pid].minors, found[uses.pid].cuda) == (frozenset({0}), True)
        assert (found[uses.pid].run_id, found[ours.pid].run_id) == ("", "run-7")
        assert [one.may_hold(0) for one in map(found.get, (uses.pid, monitor.pid, ours.pid))] == [
            True, False, True,
        ]  # fmt: skip
        assert not found[uses.pid].may_hold(1)
        assert gpu_files.ownerless_runs() == ["run-7"]
    finally:
        let_go(uses, monitor, ours)
    assert gpu_files.look_for_holders().holders == []
    assert gpu_files.ownerless_runs() == []


def test_a_run_with_a_warden_is_not_ownerless(files: Path) -> None:
    env = {"ALLSTOP_RUN_ID": "run-7"}
    ours = hold(files / "nvidia-uvm", env=env)
    code = (
        "from supervisor.system.process import set_title; "
        f"set_title({gpu_files.WARDEN_TITLE!r}); print('ready', flush=True); input()"
    )
    warden = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | env | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert warden.stdout is not None
        assert warden.stdout.readline() == "ready\n"
        assert gpu_files.ownerless_runs() == []
        let_go(warden)
        assert gpu_files.ownerless_runs() == ["run-7"]
    finally:
        let_go(ours)


def test_a_machine_without_device_files_is_no_gpu_machine(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu_files.present()
    monkeypatch.setenv(gpu_files.DIRECTORY_VARIABLE, str(files / "none"))
    assert not gpu_files.present()


# -- whose a listed pid is -------------------------------------------------------------------------


def test_a_listed_pid_is_ours_only_with_its_start_time_or_the_cookie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    me = Identity.of(os.getpid())
    assert me is not None
    observer = Observer(None, "run-7")  # type: ignore[arg-type]
    assert observer.whose(me.pid) is Whose.FOREIGN
    observer.ours = {me.pid: me}
    assert observer.whose(me.pid) is Whose.OURS
    # a later process with the number of one of ours
    observer.ours = {me.pid: me._replace(start_time=me.start_time - 1)}
    assert observer.whose(me.pid) is Whose.FOREIGN
    gone = 2**22 + 1  # above any pid
    assert observer.whose(gone) is Whose.NAMELESS
    observer.ours = {gone: Identity(gone, 1)}
    assert observer.whose(gone) is Whose.OURS
    monkeypatch.setattr(gpu_files, "run_id_of", lambda _who: "run-7")
    observer.ours = {}
    assert observer.whose(me.pid) is Whose.OURS


def test_a_device_is_back_only_by_a_list_as_new_as_its_figure() -> None:
    """A stranger gives back 450 MB after it was listed, and ours hold as much."""
    one = Gpu("GPU-1", 0, "H100", 10**9)
    before = Before(one, 0, {})
    device = WatchedDevice(before, 0)
    mib = 2**20
    used = iter([900 * mib, 450 * mib, 450 * mib, 450 * mib])
    lists = iter([{os.getpid(): 450 * mib}, {}, {}])

    class Told:
        def used_bytes(self, _uuid: str) -> int:
            return next(used)

        def processes(self, _uuid: str) -> ProcessList:
            return ProcessList(dict(next(lists)), Source.PROCESS)

    observer = Observer(Told(), "run-7")  # type: ignore[arg-type]
    observer.look(device)
    assert device.back_at is None  # 450 MB of 900 are the stranger's
    observer.look(device)
    assert device.back_at is None
    assert device.found is not None
    assert device.found.excess_bytes == 450 * mib
