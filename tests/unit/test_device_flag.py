"""How a stop reaches a kernel on a GPU, against a driver that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.gpu.fake_cuda import FakeCuda, page_size

REFUSED = "cuMemHostRegister_v2 801"

OPEN = """
flag = StopFlag()
opened = flag.cuda
"""

HEARD = """
flag = StopFlag()
opened = flag.cuda
kernel = Kernel(opened.pointer)
assert not opened.wait(kernel, timeout=0.05), "the kernel ended before it was stopped"
if os.fork() == 0:  # the stop comes from another process
    flag.set()
    os._exit(0)
os.wait()
print(opened.tier, opened.wait(kernel, timeout=30), opened.why)
"""


@pytest.fixture
def gpu(tmp_path: Path) -> FakeCuda:
    return FakeCuda(tmp_path)


# -- mapped ----------------------------------------------------------------------


@pytest.mark.parametrize("same_address", ["attribute 91 1", "attribute 91 0"])
def test_a_running_kernel_reads_the_flag_itself(gpu: FakeCuda, same_address: str) -> None:
    gpu.set(same_address)
    assert gpu.run(HEARD) == "mapped True"
    assert not gpu.calls("cuMemcpyHtoDAsync_v2", "cuMemAlloc_v2")


def test_one_page_is_pinned_once_and_nothing_else(gpu: FakeCuda) -> None:
    gpu.run("""
    flag = StopFlag()
    pointers = set()
    for _ in range(63):  # generations 1 to 63 share the header's page
        pointers.add(flag.cuda.pointer)
        assert flag.cuda is flag.cuda and flag.device_pointer == flag.cuda.pointer
        flag.clear()
    assert len(pointers) == 63
    """)
    (register,) = gpu.calls("cuMemHostRegister_v2")
    address, size, flags = register.arguments
    assert int(address, 16) % page_size() == 0
    assert (int(size), int(flags)) == (page_size(), 3)
    assert not gpu.calls("cuMemHostAlloc", "cuMemAlloc_v2", "cuMemHostUnregister")


def test_the_next_page_is_pinned_when_the_flag_gets_there(gpu: FakeCuda) -> None:
    gpu.run("""
    flag = StopFlag()
    flag.cuda
    for _ in range(64):
        flag.clear()
        flag.cuda
    """)
    first, second = gpu.calls("cuMemHostRegister_v2")
    assert int(second.arguments[0], 16) - int(first.arguments[0], 16) == page_size()
    assert (first.code, second.code) == (0, 0)


def test_a_kernel_hears_the_generation_that_was_rearmed_to(gpu: FakeCuda) -> None:
    assert (
        gpu.run("""
    writer = StopFlag()
    reader = StopFlag.from_fd(os.dup(writer.fileno()))
    old = reader.cuda
    writer.set()
    writer.clear()
    reader.rearm()
    assert reader.cuda is not old and reader.cuda.generation == 2
    kernel = Kernel(reader.cuda.pointer)
    assert not reader.cuda.wait(kernel, timeout=0.05), "an old stop reached a new generation"
    writer.set()
    print(reader.cuda.wait(kernel, timeout=60))
    """)
        == "True"
    )


def test_a_flag_that_is_gone_leaves_its_address_to_no_other(gpu: FakeCuda) -> None:
    """The device sees the pages that were registered, whatever is mapped there later."""
    gpu.set("attribute 91 0")
    assert (
        gpu.run("""
    import gc
    for _ in range(5):
        flag = StopFlag()
        kernel = Kernel(flag.cuda.pointer)
        gone = "the kernel reads the page of a flag that is gone"
        assert not flag.cuda.wait(kernel, timeout=0.02), gone
        flag.set()
        assert flag.cuda.wait(kernel, timeout=30), gone
        del flag
        gc.collect()
    print("heard")
    """)
        == "heard"
    )
    assert {call.code for call in gpu.calls("cuMemHostRegister_v2")} == {0}


def test_threads_share_what_is_opened(gpu: FakeCuda) -> None:
    gpu.set("slow 50000")
    assert (
        gpu.run("""
    flag = StopFlag()
    together = threading.Barrier(8)
    found = []
    def ask():
        together.wait()
        found.append(flag.cuda)
    threads = [threading.Thread(target=ask) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(len(found), len(set(map(id, found))))
    """)
        == "8 1"
    )
    assert [call.code for call in gpu.calls("cuMemHostRegister_v2")] == [0]


# -- weaker tiers ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ([REFUSED], "mapped: cuMemHostRegister_v2: CUDA_ERROR_NOT_SUPPORTED (801)"),
        (["attribute 99 0"], "mapped: the device does not support registered host memory"),
        (["cuMemHostRegister_v2 712"], "ALREADY_REGISTERED"),
        (["cuMemHostGetDevicePointer_v2 1"], "mapped: cuMemHostGetDevicePointer_v2"),
        ([REFUSED, "cuMemHostAlloc 2"], "mapped: cuMemHostRegister_v2"),
    ],
)
def test_a_thread_writes_the_word_where_the_page_cannot_be_mapped(
    gpu: FakeCuda, settings: list[str], why: str
) -> None:
    gpu.set(*settings)
    tier, heard, said = gpu.run(HEARD).split(maxsplit=2)
    assert (tier, heard) == ("vram", "True")
    assert why in said
    assert [call.arguments for call in gpu.calls("cuStreamCreate")] == [("1",)]  # non-blocking


def test_waves_where_no_thread_writes_either(gpu: FakeCuda) -> None:
    gpu.set(REFUSED, "cuStreamCreate 801")
    tier, why = gpu.run(OPEN + "print(opened.tier, opened.why)").split(maxsplit=1)
    assert tier == "waves"
    assert why == (
        "mapped: cuMemHostRegister_v2: CUDA_ERROR_NOT_SUPPORTED (801); "
        "vram: cuStreamCreate: CUDA_ERROR_NOT_SUPPORTED (801)"
    )


def test_waves_where_no_thread_can_be_started(gpu: FakeCuda) -> None:
    gpu.set(REFUSED)
    assert gpu.run("""
    def start(thread):
        raise RuntimeError("can't start new thread")
    threading.Thread.start = start
    print(StopFlag().cuda.tier, StopFlag().cuda.why)
    """).endswith("; vram: can't start new thread")


def test_an_error_where_there_is_no_word_to_read(gpu: FakeCuda) -> None:
    gpu.set(REFUSED, "cuMemAlloc_v2 2")
    said = gpu.run("print(refused(lambda: StopFlag().cuda))")
    assert said == "CudaError: cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2)"


def test_in_waves_a_kernel_reads_a_word_that_stays_zero(gpu: FakeCuda) -> None:
    assert (
        gpu.run(
            """
    flag = StopFlag()
    opened = flag.cuda
    word = ctypes.c_int64.from_address(opened.pointer)
    assert word.value == 0
    taken = []
    for items in opened.launches(1_000_000, 256, blocks_per_sm=3):
        taken.append(items)
        if len(taken) == 2:
            flag.set()
    print(word.value, taken)
    """,
            ALLSTOP_DEVICE_FLAG="waves",
        )
        == f"0 {[range(0, 132 * 3 * 256), range(132 * 3 * 256, 2 * 132 * 3 * 256)]}"
    )


def test_where_the_kernel_hears_for_itself_one_launch_does_all(gpu: FakeCuda) -> None:
    assert (
        gpu.run(
            """
    flag = StopFlag()
    opened = flag.cuda
    print(list(opened.launches(1_000_000, 256)), list(opened.launches(0, 256)))
    flag.set()
    print(list(opened.launches(1_000_000, 256)))
    """
        )
        == "[range(0, 1000000)] []\n[]"
    )


def test_the_size_of_a_wave(gpu: FakeCuda) -> None:
    assert json.loads(
        gpu.run(
            """
    flag = StopFlag()
    opened = flag.cuda
    sizes = [opened.wave(256), opened.wave(256, 3), opened.wave(32), opened.wave(1024, 1)]
    print(sizes)
    assert "ValueError" in refused(lambda: opened.wave(0))
    assert "ValueError" in refused(lambda: opened.wave(256, 0))
    """
        )
    ) == [132 * 2048, 132 * 3 * 256, 132 * 32 * 32, 132 * 1024]


# -- choice ------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["mapped", "vram", "waves"])
def test_the_environment_may_name_the_tier(gpu: FakeCuda, tier: str) -> None:
    said = gpu.run(OPEN + "print(opened.tier, opened.why)", ALLSTOP_DEVICE_FLAG=tier)
    assert said == f"{tier} {'' if tier == 'mapped' else f'ALLSTOP_DEVICE_FLAG={tier}'}".strip()


def test_a_tier_that_does_not_exist(gpu: FakeCuda) -> None:
    said = gpu.run("print(refused(lambda: StopFlag().cuda))", ALLSTOP_DEVICE_FLAG="fast")
    assert said == "ConfigError: ALLSTOP_DEVICE_FLAG=fast: known tiers are mapped, vram, waves"
    said = gpu.run("print(refused(lambda: device_flag.report_to(print)))", ALLSTOP_DEVICE_FLAG="1")
    assert said.startswith("ConfigError: ALLSTOP_DEVICE_FLAG=1: known tiers")


def test_a_named_tier_is_not_replaced_by_another(gpu: FakeCuda) -> None:
    gpu.set(REFUSED)
    said = gpu.run("print(refused(lambda: StopFlag().cuda))", ALLSTOP_DEVICE_FLAG="mapped")
    assert said == (
        "ConfigError: ALLSTOP_DEVICE_FLAG=mapped does not work here: "
        "mapped: cuMemHostRegister_v2: CUDA_ERROR_NOT_SUPPORTED (801)"
    )


def test_each_flag_is_reported_once(gpu: FakeCuda) -> None:
    assert (
        gpu.run("""
    reported = []
    device_flag.report_to(reported.append)
    flag = StopFlag()
    opened = [flag.cuda, flag.cuda]
    print(reported == opened[:1])
    """)
        == "True"
    )


# -- devices that cannot be used -----------------------------------------------------


def test_without_a_driver(gpu: FakeCuda) -> None:
    said = gpu.run(
        "print(refused(lambda: StopFlag().device_pointer))", loaded=False, LD_LIBRARY_PATH=""
    )
    assert said.startswith("UnsupportedPlatformError: libcuda.so.1 cannot be loaded")


def test_without_a_device(gpu: FakeCuda) -> None:
    gpu.set("cuInit 100")
    said = gpu.run("print(refused(lambda: StopFlag().cuda))")
    assert said == "CudaError: cuInit: CUDA_ERROR_NO_DEVICE (100)"


@pytest.mark.parametrize("code", [46, 719])
def test_a_lost_device_is_an_error_and_not_a_weaker_tier(gpu: FakeCuda, code: int) -> None:
    gpu.set(f"cuMemHostRegister_v2 {code}")
    said = gpu.run("print(refused(lambda: StopFlag().cuda))")
    assert said.startswith("CudaError: cuMemHostRegister_v2: CUDA_ERROR_")
    assert not gpu.calls("cuMemAlloc_v2")


_LIKE_CUPY = """
class Event:
    done, ptr = property(lambda self: False), 7  # as CuPy says of a kernel that has failed
class Stream(Event):
    def wait_event(self): ...
flag = StopFlag()
print(refused(lambda: print(flag.cuda.wait({kind}(), timeout=0.01))))
"""


@pytest.mark.parametrize("kind", ["Event", "Stream"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "True"),
        (600, "False"),
        (719, "CudaError: cu{kind}Query: CUDA_ERROR_LAUNCH_FAILED (719)"),
    ],
)
def test_of_what_cupy_has_queued_the_driver_is_asked(
    gpu: FakeCuda, kind: str, code: int, said: str
) -> None:
    """Its ``done`` would be False for ever once a kernel has failed."""
    gpu.set(f"cu{kind}Query {code}")
    assert gpu.run(_LIKE_CUPY.format(kind=kind)).splitlines()[0] == said.format(kind=kind)


@pytest.mark.parametrize(
    "initialise",
    ["cuda.find().initialise()", "StopFlag().cuda"],
    ids=["by a framework", "by a flag"],
)
def test_a_fork_after_initialising_is_a_clear_error(gpu: FakeCuda, initialise: str) -> None:
    said = gpu.run(f"""
    {initialise}
    if os.fork() == 0:
        print(refused(lambda: StopFlag().cuda), flush=True)
        os._exit(0)
    os.wait()
    print(StopFlag().cuda.tier)
    """)
    child, parent = said.splitlines()
    assert ": CUDA_ERROR_NOT_INITIALIZED (3). CUDA cannot be used" in child
    assert "forked from one that had initialised CUDA" in child
    assert parent == "mapped"


def test_a_forked_child_does_not_take_the_parent_s_flag_for_its_own(gpu: FakeCuda) -> None:
    gpu.set("forgetful 1")
    said = gpu.run("""
    flag = StopFlag()
    flag.cuda
    if os.fork() == 0:
        print(refused(lambda: flag.cuda), flush=True)
        os._exit(0)
    os.wait()
    """)
    assert said.startswith("CudaError: fork: CUDA_ERROR_NOT_INITIALIZED (3). CUDA cannot be used")


def test_a_forked_worker_opens_the_flag_for_itself(gpu: FakeCuda) -> None:
    assert (
        gpu.run("""
    flag = StopFlag()
    if os.fork() == 0:
        kernel = Kernel(flag.cuda.pointer)
        print("polling", flush=True)
        os._exit(0 if flag.cuda.wait(kernel, timeout=60) else 1)
    flag.wait(0.05)
    flag.set()
    print(os.wait()[1], cuda.opened())
    """)
        == "polling\n0 False"
    )


def test_the_context_of_the_caller_is_used(gpu: FakeCuda) -> None:
    gpu.run("""
    cuda.find().initialise()
    cuda.find().make_current(0xABC)
    StopFlag().cuda
    """)
    assert not gpu.calls("cuDevicePrimaryCtxRetain")
