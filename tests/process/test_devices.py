"""Workers on GPUs, seen from outside: a fake NVML has the GPUs, functions say what they were given.

No GPU is needed: what is checked is which worker gets which device, and what happens when one
is lost. :mod:`tests.device` has what only a GPU can show.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from supervisor.lifecycle.gpu import speed
from tests.support.cli import Place, Started, rows_of
from tests.support.gpu import fakes
from tests.support.gpu.fake_nvml import FakeNvml, gpu

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

A, B, C = "GPU-aaaa", "GPU-bbbb", "GPU-cccc"

SAYS_WHERE = """
from supervisor.errors import DeviceLostError

def device():
    return os.environ.get("CUDA_VISIBLE_DEVICES", "none")

def say(params):
    with open(HERE / "where", "a") as file:
        file.write(f"{params['a']} {os.getpid()} {device()}\\n")

def f(bars, params, stop):
    '''Says where it computes.'''
    say(params)
    return row(params)
"""

TOGETHER = (
    SAYS_WHERE
    + """
def f(bars, params, stop):
    '''Waits until N workers compute; those on LOST then lose their device, once.'''
    say(params)
    mark(f"on-{device()}")
    while len({str(at).split("-on-")[-1].rsplit("-", 1)[0] for at in marked("on")}) < N:
        time.sleep(0.005)
        if stop.is_set():
            return None
    if device() in LOST:
        raise DeviceLostError(f"{device()} fell off the bus")
    return row(params)
"""
)


@pytest.fixture
def fake(tmp_path: Path, place: Place) -> FakeNvml:
    made = FakeNvml(tmp_path)
    made.say(gpu(A), gpu(B), gpu(C))
    place.env |= made.env
    place.env.pop("CUDA_VISIBLE_DEVICES", None)
    return made


def on_gpus(place: Place, body: str, *options: str, **kw: Any) -> Started:
    """Start a sweep whose number of workers is left to the devices."""
    argv = place.run_argv(body, *options, **kw)
    at = argv.index("--workers")
    del argv[at : at + 2]
    return place.start(argv)


def where(place: Place) -> list[tuple[int, int, str]]:
    """Combination, pid and device of each call."""
    lines = (place.root / "where").read_text().splitlines()
    return [(int(a), int(pid), device) for a, pid, device in map(str.split, lines)]


def facts(run: Started, name: str) -> list[dict[str, Any]]:
    return [fact for fact in map(json.loads, run.events.splitlines()) if fact["event"] == name]


def asked(run: Started) -> dict[str, Any]:
    return json.loads((run.run_dir / "run.json").read_text())


# -- who gets what -------------------------------------------------------------------


def test_one_worker_has_each_gpu_and_sees_no_other(place: Place, fake: FakeNvml) -> None:
    run = on_gpus(place, TOGETHER, "--device", "cuda", n=40, N=3, LOST=[])
    assert run.end() == 0, run.tell()
    run.assert_nothing_lost(at_least=40)
    pids = {(pid, device) for _, pid, device in where(place)}
    assert sorted(device for _, device in pids) == [A, B, C]
    assert asked(run)["devices"] == [A, B, C]
    assert asked(run)["device"] == "cuda"
    (chosen,) = facts(run, "front.device_chosen")
    assert chosen["devices"] == [A, B, C]
    assert [fact["device"] for fact in facts(run, "warden.worker_started")] == [A, B, C]
    run.assert_gone()


def test_by_index_by_uuid_and_in_turn(place: Place, fake: FakeNvml) -> None:
    run = place.sweep(SAYS_WHERE, "--device", f"cuda:2,{A[:5]}", n=9, workers=3)
    assert run.end() == 0, run.tell()
    assert asked(run)["devices"] == [C, A, C]
    assert {device for _, _, device in where(place)} <= {A, C}


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_cuda_the_environment_is_left_alone(
    place: Place, fake: FakeNvml, device: str
) -> None:
    place.env["CUDA_VISIBLE_DEVICES"] = "2,1"
    run = place.sweep(SAYS_WHERE, "--device", device, n=9)
    assert run.end() == 0, run.tell()
    assert {device for _, _, device in where(place)} == {"2,1"}
    assert asked(run)["devices"] == []


def test_the_callers_environment_hides_gpus(place: Place, fake: FakeNvml) -> None:
    place.env["CUDA_VISIBLE_DEVICES"] = "1"
    run = on_gpus(place, SAYS_WHERE, "--device", "cuda", n=9)
    assert run.end() == 0, run.tell()
    assert {device for _, _, device in where(place)} == {B}
    done = place.command("run", "--device", "cuda:0", "--run-dir", str(place.root / "no"))
    assert done.returncode == 2


def test_a_limit_is_divided_among_those_who_share_a_gpu(place: Place, fake: FakeNvml) -> None:
    body = SAYS_WHERE.replace('"CUDA_VISIBLE_DEVICES"', '"CUPY_GPU_MEMORY_LIMIT"')
    run = place.sweep(body, "--device", "cuda:0", "--vram-limit", "4G", n=9, workers=2)
    assert run.end() == 0, run.tell()
    assert {device for _, _, device in where(place)} == {str(2 << 30)}


USAGE = [
    (["--device", "cuda:7"], "there is no GPU 7"),
    (["--device", "cuda:GPU-zz"], "there is no GPU GPU-zz"),
    (["--device", "torch"], "give --device cuda"),
    (["--device", "gpu"], "--device must be one of auto, cpu, cuda"),
    (["--device", "cuda", "--vram-limit", "lots"], "--vram-limit must be a size"),
]


@pytest.mark.parametrize(("options", "said"), USAGE)
def test_what_cannot_be_had_is_a_usage_error(
    place: Place, fake: FakeNvml, options: list[str], said: str
) -> None:
    run = place.sweep(SAYS_WHERE, *options)
    assert run.end() == 2
    assert said in run.err
    assert not run.run_dir.exists()


def test_without_a_driver_cuda_is_a_usage_error(place: Place, fake: FakeNvml) -> None:
    fake.say("init 12")
    run = place.sweep(SAYS_WHERE, "--device", "cuda")
    assert run.end() == 2
    assert "libnvidia-ml.so.1 was not found" in run.err
    assert not run.run_dir.exists()


# -- lost devices ----------------------------------------------------------------------


def test_a_worker_whose_device_is_lost_goes_on_with_a_spare(place: Place, fake: FakeNvml) -> None:
    run = place.sweep(TOGETHER, "--device", "cuda", n=60, workers=2, N=2, LOST=[A])
    assert run.end() == 0, run.tell()
    run.assert_nothing_lost(at_least=60)
    assert max(run.kept().values()) == 1, "no combination is counted twice"
    (lost,) = facts(run, "warden.device_lost")
    assert (lost["device"], lost["error"]) == (A, f"{A} fell off the bus")
    assert [fact["device"] for fact in facts(run, "warden.worker_started")] == [A, B, C]
    assert [n for n in run.report["errors"] if A in n] == [
        f"{A} is not used any more: {A} fell off the bus"
    ]
    run.assert_gone()


def test_without_a_spare_the_others_go_on(place: Place, fake: FakeNvml) -> None:
    fake.say(gpu(A), gpu(B))
    run = on_gpus(place, TOGETHER, "--device", "cuda", n=60, N=2, LOST=[A])
    assert run.end() == 0, run.tell()
    run.assert_nothing_lost(at_least=60)
    assert [fact["slot"] for fact in facts(run, "warden.slot_retired")] == [0]
    after = Counter(device for _, _, device in where(place))
    assert after[A] == 1
    run.assert_gone()


STUCK = TOGETHER.replace(
    "        raise", "        os._exit = lambda code: time.sleep(1000)\n        raise"
)


def test_nothing_waits_for_a_worker_that_is_stuck_in_the_driver(
    place: Place, fake: FakeNvml
) -> None:
    run = place.sweep(STUCK, "--device", "cuda", "--grace", "0.2", n=20, workers=1, N=1, LOST=[A])
    assert run.end() == 0, run.tell()
    run.assert_nothing_lost(at_least=20)
    assert max(run.kept().values()) == 1
    assert [fact["device"] for fact in facts(run, "warden.worker_started")] == [A, B]
    run.assert_gone()


IDLE = (
    TOGETHER
    + """
def f(bars, params, stop):
    '''The first to compute loses its device once the other has nothing left to do.'''
    say(params)
    if first("loser"):
        while not any(f"w-{1 - params['a']}" in str(at) for at in marked("done")):
            time.sleep(0.005)
        time.sleep(0.1)  # its row is kept, and reported: it asks for the next chunk, in vain
        raise DeviceLostError("gone")
    mark(f"done-w-{params['a']}")
    return row(params)
"""
)


def test_a_chunk_that_was_given_back_wakes_a_worker_that_had_none(
    place: Place, fake: FakeNvml
) -> None:
    fake.say(gpu(A), gpu(B))
    run = on_gpus(place, IDLE, "--device", f"cuda:{A},{B}", n=2)
    assert run.end() == 0, run.tell()
    run.assert_nothing_lost(at_least=2)


def test_with_no_device_left_the_run_fails_and_is_resumed_on_the_cpu(
    place: Place, fake: FakeNvml
) -> None:
    run = on_gpus(place, TOGETHER, "--device", "cuda", n=60, N=3, LOST=[A, B, C])
    assert run.end() == 1, run.tell()
    assert "no GPU is left to compute on: " in run.report["reason"]
    again = f"resume {run.run_dir} --device cpu"
    assert f"allstop {again} computes the rest" in run.report["reason"]
    assert {fact["device"] for fact in facts(run, "warden.device_lost")} == {A, B, C}
    run.assert_gone()
    done = place.command(*again.split())
    assert done.returncode == 0, done.stderr
    run.assert_nothing_lost(at_least=60)
    assert asked(run)["devices"] == []
    assert asked(run)["device"] == "cpu"


DIES_EARLY = (
    """
if os.environ.get("CUDA_VISIBLE_DEVICES") in BAD:
    os.kill(os.getpid(), signal.SIGSEGV)
"""
    + TOGETHER
)


def test_a_driver_that_crashes_its_workers_is_a_lost_device(place: Place, fake: FakeNvml) -> None:
    run = place.sweep(DIES_EARLY, "--device", "cuda", n=30, workers=2, BAD=[A], N=2, LOST=[])
    assert run.end() == 0, run.tell()
    run.assert_nothing_lost(at_least=30)
    (lost,) = facts(run, "warden.device_lost")
    assert lost["device"] == A
    assert "SIGSEGV" in lost["error"]
    started = Counter(fact["device"] for fact in facts(run, "warden.worker_started"))
    assert started == {A: 3, B: 1, C: 1}


def test_a_combination_that_crashes_its_worker_takes_no_device(
    place: Place, fake: FakeNvml
) -> None:
    body = SAYS_WHERE.replace(
        "    say(params)\n    return",
        "    if params['a'] == 7: os.kill(os.getpid(), 11)\n    return",
    )
    run = on_gpus(place, body, "--device", "cuda", n=30)
    assert run.end() == 0, run.tell()
    assert facts(run, "warden.device_lost") == []
    assert [row["a"] for row in run.results() if row.get("error")] == [7]


def test_a_function_without_a_device_cannot_lose_one(place: Place, fake: FakeNvml) -> None:
    run = place.sweep(TOGETHER, n=10, workers=1, N=1, LOST=["none"])
    assert run.end() == 1
    assert "none fell off the bus" in run.report["reason"]


def test_a_stop_while_devices_are_lost(place: Place, fake: FakeNvml) -> None:
    body = TOGETHER.replace("    return row(params)\n", "    stop.wait()\n    return None\n")
    run = on_gpus(place, body, "--device", "cuda", n=30, N=3, LOST=[A])
    run.wait_for(lambda: facts(run, "warden.slot_retired"), "a slot that retired")
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    assert run.report["status"] == "stopped"
    run.assert_gone()


# -- a broken context ------------------------------------------------------------------

BREAKS = (
    SAYS_WHERE
    + """
from supervisor.system import cuda

SETTINGS = Path(os.environ["FAKE_CUDA"]) / "settings"
SETTINGS.write_text("")  # a new process has a new context

def f(bars, params, stop):
    '''Combination 7 makes an error in a kernel, which the process cannot recover from.'''
    cuda.find().context()
    say(params)
    if params["a"] == 7 and first("broken"):
        SETTINGS.write_text(f"lost {CODE}")
    if SETTINGS.read_text():
        raise RuntimeError("an illegal memory access was encountered")
    return row(params)
"""
)


@pytest.fixture
def cuda(tmp_path: Path, place: Place, fake: FakeNvml) -> None:
    library = fakes.build("fake_libcuda.c", "libcuda.so.1")
    place.env["LD_LIBRARY_PATH"] = f"{library}:{place.env['LD_LIBRARY_PATH']}"
    place.env["FAKE_CUDA"] = str(tmp_path)


@pytest.mark.parametrize(("code", "devices"), [(700, [A, A]), (214, [A, B])])
def test_a_context_that_is_broken_takes_one_combination_with_it(
    place: Place, cuda: None, code: int, devices: list[str]
) -> None:
    """700, an illegal address, is of the process; 214, uncorrectable memory, of the device."""
    run = place.sweep(BREAKS, "--device", "cuda", n=30, workers=1, CODE=code)
    assert run.end() == 0, run.tell()
    assert [row["a"] for row in run.results() if row["error"]] == [7]
    run.assert_nothing_lost(at_least=30)
    assert max(run.kept().values()) == 1
    assert [fact["device"] for fact in facts(run, "warden.worker_started")] == devices
    lost = [A] if code == 214 else []
    assert [fact["device"] for fact in facts(run, "warden.device_lost")] == lost
    run.assert_gone()


ABSENT = (
    SAYS_WHERE
    + """
SETTINGS = Path(os.environ["FAKE_CUDA"]) / "settings"
SETTINGS.write_text("cuInit 100" if device() == ABSENT else "")

def f(bars, params, stop):
    say(params)
    assert stop.device_pointer
    return row(params)
"""
)


def test_a_device_that_is_absent_when_the_flag_is_asked_for_fails_no_combination(
    place: Place, cuda: None
) -> None:
    run = place.sweep(ABSENT, "--device", "cuda", n=30, workers=1, ABSENT=A)
    assert run.end() == 0, run.tell()
    assert not any(row.get("error") for row in run.results())
    run.assert_nothing_lost(at_least=30)
    assert [fact["device"] for fact in facts(run, "warden.device_lost")] == [A]
    assert [fact["device"] for fact in facts(run, "warden.worker_started")] == [A, B]
    run.assert_gone()


OPENS_CUDA = """
import sys
if "supervisor.warden" in sys.orig_argv:
    import ctypes
    assert ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
"""


def test_no_worker_is_forked_from_a_warden_that_has_opened_cuda(
    tmp_path: Path, place: Place, cuda: None
) -> None:
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub/sitecustomize.py").write_text(OPENS_CUDA)
    place.env["PYTHONPATH"] = f"{tmp_path / 'stub'}:{place.env['PYTHONPATH']}"
    # its first process becomes the warden; in a PID namespace that would be a forked one
    run = place.sweep(SAYS_WHERE, "--containment", "subreaper", n=9)
    assert run.end() == 1, run.tell()
    assert "CUDA is initialised in the warden" in run.report["reason"]
    assert facts(run, "warden.worker_started") == []
    run.assert_gone()


# -- built-in strategies -------------------------------------------------------------------

NO_DRIVER = 'raise ImportError("libcuda.so.1: cannot open shared object file")\n'
GRID = ["--strategy", "sma_cross", "--grid", "fast=5:14", "--grid", "slow=20:40:5"]


@pytest.fixture
def broken_cupy(tmp_path: Path, place: Place, fake: FakeNvml) -> None:
    """A CuPy that is installed, and that no worker can import."""
    (tmp_path / "stub/cupy").mkdir(parents=True)
    (tmp_path / "stub/cupy/__init__.py").write_text(NO_DRIVER)
    place.env["PYTHONPATH"] = f"{tmp_path / 'stub'}:{place.env['PYTHONPATH']}"


def built_in(place: Place, name: str, *options: str) -> Started:
    return place.start(
        place.argv("run", *GRID, "--run-dir", str(place.root / name), "--json", *options)
    )


def table(place: Place, name: str) -> bytes:
    return (place.root / name / "results.parquet").read_bytes()


def test_the_cpu_computes_what_is_left_once_auto_has_lost_its_gpus(
    place: Place, broken_cupy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", place.env["XDG_CACHE_HOME"])
    speed.remember_gpu_start(0.001)  # so that a GPU pays at once
    run = built_in(place, "run", "--workers", "2")
    assert run.end() == 0, run.tell()
    assert asked(run)["stack"] == "cupy"
    assert {fact["device"] for fact in facts(run, "warden.device_lost")} == {A, B, C}
    (left,) = facts(run, "warden.gpus_left")
    assert left["workers"] == 2
    assert "every GPU is lost: the rest is computed on the CPU" in run.report["errors"]
    assert built_in(place, "cpu", "--device", "cpu").end() == 0
    assert table(place, "run") == table(place, "cpu")
    run.assert_gone()


def test_cuda_without_a_driver_fails_and_says_how_to_go_on(place: Place, broken_cupy: None) -> None:
    run = built_in(place, "run", "--device", "cuda:1")
    assert run.end() == 1
    assert f"resume {run.run_dir} --device cpu" in run.report["reason"]
    assert "cannot open shared object file" in run.report["reason"]
    done = place.command("resume", str(run.run_dir), "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    assert run.report["combos_done"] == 50
    run.assert_gone()


def test_cuda_without_cupy_is_a_usage_error(place: Place, fake: FakeNvml) -> None:
    if importlib.util.find_spec("cupy"):
        pytest.skip("CuPy is installed")
    run = built_in(place, "run", "--device", "cuda")
    assert run.end() == 2
    assert "device cuda needs CuPy, which is not installed" in run.err
    assert "[cuda1" in run.err


CHECKS_MODULES = """
import sys
from supervisor.market.example import example_bars
from supervisor.records.device import Stack
from supervisor.records.plan import Plan, Source
from supervisor.rows.grid import Grid
from workers.registry import make_backend, preload

stack = sys.argv[1]
preload("sma_cross", "cuda" if stack == "cupy" else "torch:cpu")
plan = Plan("r", "sma_cross", Source.BUILT_IN, Grid.of({"fast": [5], "slow": [20]}), 1, "example",
            1000, 1, stack=Stack(stack), ordered=("fast", "slow"))
make_backend(plan, example_bars(1000), None).prepare()
print(*sorted({"numba", "llvmlite", "cupy", "torch"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("stack", ["cupy", "torch"])
def test_the_warden_of_a_gpu_run_imports_no_numeric_compiler(place: Place, stack: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECKS_MODULES, stack], env=place.env, capture_output=True, text=True
    )
    assert done.stdout.split() == [], done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


# -- on a cluster --------------------------------------------------------------------------


PREPARES = """
import sys
from pathlib import Path
from supervisor.lifecycle.prepare import Order, prepare

strategy, data, run_dir = sys.argv[1:]
order = Order.of({"strategy": strategy, "grid": {"a": list(range(40))}, "data": data,
                  "device": "cuda:1,2", "run_dir": Path(run_dir)})
assert prepare(order, elsewhere=True).plan.devices == ()
"""


def test_a_shard_looks_for_its_device_where_it_runs(place: Place, fake: FakeNvml) -> None:
    """The front prepares the sweep without a GPU; the job resolves the text."""
    run_dir, strategy = place.root / "run", place.strategy(TOGETHER, N=2, LOST=[])
    subprocess.run(
        [sys.executable, "-c", PREPARES, strategy, str(place.data), str(run_dir)],
        env=place.env | {"LD_LIBRARY_PATH": ""}, check=True,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", "-m", "supervisor.cli.shard", str(run_dir), "7", "2", "1"],
        cwd=place.work, env=place.env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shard = json.loads((run_dir / "shards/00001/run.json").read_text())
    assert (shard["devices"], shard["workers"]) == ([B, C], 2)
    assert {a for a, _, _ in where(place)} == set(range(20, 40))
    assert {device for _, _, device in where(place)} == {B, C}


RESUMES_ELSEWHERE = """
import sys
from supervisor.lifecycle.prepare import Changes
from supervisor.lifecycle.resuming import prepare

plan = prepare(sys.argv[1], Changes(), elsewhere=True).plan
assert (plan.devices, plan.spare_devices, plan.device_why) == ((), (), ""), plan
"""


def test_what_was_begun_here_and_is_resumed_on_a_cluster_has_no_device_of_ours(
    place: Place, fake: FakeNvml
) -> None:
    run = on_gpus(place, TOGETHER, "--device", "cuda", n=60, N=3, LOST=[A, B, C])
    assert run.end() == 1, run.tell()
    assert asked(run)["devices"]
    subprocess.run(
        [sys.executable, "-c", RESUMES_ELSEWHERE, str(run.run_dir)],
        env=place.env,
        cwd=place.work,
        check=True,
    )


# -- PyTorch ---------------------------------------------------------------------------------

LONG = ["--strategy", "sma_cross", "--grid", "fast=5:20", "--grid", "slow=30:100:10"]


def test_torch_on_the_cpu_stops_and_resumes(place: Place) -> None:
    pytest.importorskip("torch")
    run = place.start(
        place.argv("run", *LONG, "--device", "torch:cpu", "--run-dir", str(place.root / "run"))
    )
    run.wait_for(run.kept, "a row")
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    done = run.report["combos_done"]
    assert 0 < done < 128, run.tell()
    run.assert_gone()
    for device, said in (("cpu", "Numba and CuPy"), ("auto", "Numba and CuPy")):
        refused = place.command("resume", str(run.run_dir), "--device", device)
        assert refused.returncode == 2
        assert f"has {done} rows computed by PyTorch, which {said} equals to 1e-9" in refused.stderr
        assert "--device torch, or start a new run" in refused.stderr
    again = place.command("resume", str(run.run_dir))
    assert again.returncode == 0, again.stderr
    whole = place.start(
        place.argv("run", *LONG, "--device", "cpu", "--run-dir", str(place.root / "numba"))
    )
    assert whole.end() == 0
    ours, theirs = rows_of(run.run_dir), rows_of(place.root / "numba")
    assert len(ours) == len(theirs) == 128
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-9)
    assert max(run.kept().values()) == 1
    # nothing is left to compute, on whatever device
    complete = place.command("resume", str(run.run_dir), "--device", "cpu")
    assert complete.returncode == 0
    python = [sys.executable, "-c", RESUMES, str(run.run_dir)]
    done = subprocess.run(
        python, cwd=place.work, env=place.env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["completed"]
    assert asked(run)["stack"] == "torch"


RESUMES = """
import sys, supervisor
if __name__ == "__main__":
    print(supervisor.resume(sys.argv[1], device="cpu").wait().status)
"""


def test_numbas_rows_are_not_completed_by_torch(place: Place) -> None:
    pytest.importorskip("torch")
    run = place.start(
        place.argv(
            "run", "--strategy", "sma_cross", "--grid", "fast=5:400", "--grid", "slow=500:900",
            "--device", "cpu", "--run-dir", str(place.root / "run"),
        )
    )  # fmt: skip
    run.wait_for(run.kept, "a row")
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    refused = place.command("resume", str(run.run_dir), "--device", "torch:cpu")
    assert refused.returncode == 2
    assert "rows computed by Numba and CuPy, which PyTorch equals to 1e-9" in refused.stderr
    assert "--device cpu or cuda, or start a new run" in refused.stderr
