"""The driver by ctypes, against one that is not there."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from supervisor.system import cuda
from supervisor.system.cuda import Attribute, CudaError
from tests.support.gpu.fake_cuda import FakeCuda


@pytest.fixture
def gpu(tmp_path: Path) -> FakeCuda:
    return FakeCuda(tmp_path)


def test_opened_asks_and_loads_nothing(gpu: FakeCuda) -> None:
    assert json.loads(
        gpu.run(
            """
    import json
    def loaded():
        return "libcuda" in open("/proc/self/maps").read()
    seen = [cuda.opened(), loaded()]
    driver = cuda.find()
    seen += [cuda.opened(), loaded()]
    driver.initialise()
    seen += [cuda.opened()]
    print(json.dumps(seen))
    """,
            loaded=False,
        )
    ) == [False, False, False, True, True]


def test_opened_sees_what_a_framework_loaded(gpu: FakeCuda) -> None:
    assert (
        gpu.run("""
    library = ctypes.CDLL(cuda.LIBRARY)
    print(cuda.opened(), library.cuInit(0), cuda.opened())
    """)
        == "False 0 True"
    )


def test_there_is_none_here() -> None:
    if cuda.find() is not None:
        pytest.skip("this machine has an NVIDIA driver")
    assert not cuda.opened()


def test_devices(gpu: FakeCuda) -> None:
    gpu.set("attribute 113 0", "devices 3")
    assert (
        gpu.run("""
    driver = cuda.find()
    driver.initialise()
    known = cuda.Attribute.MULTIPROCESSOR_COUNT, cuda.Attribute.READ_ONLY_HOST_REGISTER_SUPPORTED
    print(driver.device_count(), driver.uuid(0), *[driver.attribute(0, which) for which in known])
    """)
        == "3 GPU-00112233-4455-6677-8899-aabbccddeeff 132 0"
    )


def test_an_attribute_that_the_driver_does_not_know_is_0(gpu: FakeCuda) -> None:
    gpu.set("cuDeviceGetAttribute 1")
    assert (
        gpu.run("""
    cuda.find().initialise()
    print(cuda.find().attribute(0, cuda.Attribute.HOST_REGISTER_SUPPORTED))
    """)
        == "0"
    )


def test_a_call_that_the_driver_does_not_have(gpu: FakeCuda) -> None:
    said = gpu.run("""print(refused(lambda: cuda.find().call("cuNothing")))""")
    assert said == "CudaError: cuNothing: CUDA_ERROR_NOT_FOUND (500). this driver is too old"


def test_a_page_is_registered_and_given_back(gpu: FakeCuda) -> None:
    assert gpu.run("""
    import mmap
    memory = mmap.mmap(-1, 4 * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    driver = cuda.find()
    driver.context()
    driver.register(address, mmap.PAGESIZE)
    print(driver.device_pointer(address + 8) - address)
    print(refused(lambda: driver.register(address, 2 * mmap.PAGESIZE)))
    driver.unregister(address)
    print(refused(lambda: driver.device_pointer(address)))
    """).splitlines() == [
        "8",
        "CudaError: cuMemHostRegister_v2: CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED (712)",
        "CudaError: cuMemHostGetDevicePointer_v2: CUDA_ERROR_INVALID_VALUE (1)",
    ]


def test_an_error_keeps_its_facts() -> None:
    error = pickle.loads(pickle.dumps(CudaError("cuMemAlloc_v2", 2, "CUDA_ERROR_OUT_OF_MEMORY")))
    assert (error.call, error.code, error.name) == ("cuMemAlloc_v2", 2, "CUDA_ERROR_OUT_OF_MEMORY")
    assert str(error) == "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2)"
    assert not error.unusable
    assert CudaError("cuCtxSynchronize", 719, "CUDA_ERROR_LAUNCH_FAILED").unusable


def test_attributes_are_those_of_the_driver_s_header() -> None:
    header = Path("/usr/local/cuda/include/cuda.h")
    if not header.exists():
        pytest.skip("the CUDA toolkit is not installed")
    text = header.read_text()
    for attribute in Attribute:
        assert f"CU_DEVICE_ATTRIBUTE_{attribute.name} = {attribute.value}," in text
