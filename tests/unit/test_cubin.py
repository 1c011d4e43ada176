"""Device code: compiled once for each device, kept, and never taken for another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import ConfigError
from workers.cupy_backtest import cubin
from workers.cupy_backtest.layout import SOURCES

# -- cubins --------------------------------------------------------------------------


class FakeCompiler:
    """Knows devices up to sm_92."""

    def __init__(self, version: str = "fake 1.0") -> None:
        self.version = version
        self.asked: list[tuple[str, str]] = []

    def compile(self, name: str, arch: str) -> bytes:
        self.asked.append((name, arch))
        if int(arch[3:]) > 92:
            raise cubin.CompilerError("nvrtc: invalid value for --gpu-architecture (-arch)")
        return f"{name} {arch}".encode()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALLSTOP_CACHE_DIR", str(tmp_path))
    return tmp_path / "kernels"


def test_a_cubin_is_compiled_once(cache: Path) -> None:
    compiler = FakeCompiler()
    assert cubin.cubin("fills", (9, 0), compiler) == b"fills sm_90"
    assert cubin.cubin("fills", (9, 0), compiler) == b"fills sm_90"
    assert compiler.asked == [("fills", "sm_90")]
    (path,) = cache.iterdir()
    assert path.name.startswith("cuda.fills-")
    assert path.suffix == ".cubin"


def test_another_device_compiler_or_file_has_its_own(cache: Path) -> None:
    for capability in ((8, 0), (9, 0)):
        for name in ("fills", "signals"):
            for version in ("fake 1.0", "fake 1.1"):
                compiler = FakeCompiler(version)
                cubin.cubin(name, capability, compiler)
                assert compiler.asked
    assert len(list(cache.iterdir())) == 8


def test_a_damaged_cubin_is_compiled_again(cache: Path) -> None:
    cubin.cubin("fills", (9, 0), FakeCompiler())
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    compiler = FakeCompiler()
    assert cubin.cubin("fills", (9, 0), compiler) == b"fills sm_90"
    assert compiler.asked


def test_older_sources_cubins_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cubin.cubin("fills", (9, 0), FakeCompiler())
    monkeypatch.setattr(cubin, "_source_key", lambda: "0123456789ab")
    cubin.cubin("fills", (9, 0), FakeCompiler())
    (path,) = cache.iterdir()
    assert "0123456789ab" in path.name


def test_a_device_newer_than_the_compiler_gets_its_familys_code(cache: Path) -> None:
    compiler = FakeCompiler()
    assert cubin.cubin("fills", (9, 4), compiler) == b"fills sm_92"
    with pytest.raises(cubin.CompilerError):
        cubin.cubin("fills", (12, 1), compiler)
    assert compiler.asked[-1] == ("fills", "sm_120")


def test_no_compiler_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cubin, "_compilers", lambda: iter(()))
    with pytest.raises(ConfigError, match="nvcc on PATH"):
        cubin.cubin("fills", (9, 0))


@pytest.mark.parametrize("kind", [cubin.Nvrtc, cubin.Nvcc])
@pytest.mark.parametrize("name", list(SOURCES))
def test_what_real_compilers_make(kind: Any, name: str) -> None:
    compiler = real(kind)
    code = compiler.compile(name, "sm_90")
    assert code[:4] == b"\x7fELF"
    for kernel in SOURCES[name]:
        assert kernel.encode() in code
    with pytest.raises(cubin.CompilerError) as caught:
        compiler.compile(name, "sm_97")
    assert caught.value.knows_no_such_device


def real(kind: Any) -> cubin.Compiler:
    if kind is cubin.Nvcc:
        return cubin.Nvcc(cubin._nvcc() or pytest.skip("nvcc is not installed"))
    try:
        return cubin.Nvrtc()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"NVRTC cannot be loaded: {error}")
