"""A callable travels with all that it needs; what cannot travel is named, and where it hangs."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import ConfigError
from workers.function_pickle import dumps, loads, pickle_function

ROOT = Path(__file__).resolve().parents[2]

KINDS = {
    "enum": """
        import enum
        class Side(enum.Enum):
            LONG = 1
            SHORT = 2
        class Flags(enum.Flag):
            A = 1
            B = 2
        def f(): return [Side(2).name, (Flags.A | Flags.B).value, Side.LONG is Side(1)]
        expected = ["SHORT", 3, True]
    """,
    "abc": """
        import abc
        class Base(abc.ABC):
            @abc.abstractmethod
            def go(self): ...
        class Child(Base):
            def go(self): return type(self).__name__
        def f(): return [Child().go(), isinstance(Child(), Base)]
        expected = ["Child", True]
    """,
    "generic": """
        import typing
        T = typing.TypeVar("T", bound=float)
        class Box(typing.Generic[T]):
            def __init__(self, x: T): self.x = x
        class Proto(typing.Protocol):
            x: float
        class Point(typing.NamedTuple):
            x: float
        Price = typing.NewType("Price", float)
        class Extra(typing.TypedDict):
            x: float
        def take(box: Box[float]) -> T: return box.x
        def f(): return [take(Box[float](2.0)), Point(1.0).x, Extra(x=Price(3.0))["x"]]
        expected = [2.0, 1.0, 3.0]
    """,
    "dataclass": """
        from dataclasses import dataclass, field
        from functools import cache, cached_property, singledispatch
        @dataclass(frozen=True)
        class P:
            x: float = 1.0
            more: list = field(default_factory=list)
            @cached_property
            def y(self): return self.x + 1
        @cache
        def twice(x): return 2 * x
        @singledispatch
        def kind(x): return "other"
        @kind.register
        def _(x: int): return "int"
        def f(): return [P(2.0).x, twice(3), kind(3), kind("")]
        expected = [2.0, 6, "int", "other"]
    """,
    "recursion": """
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
        class A:
            def make(self): return B()
        class B(A):
            def other(self): return A()
        def f(): return [even(10), odd(10), type(A().make().other()) is A]
        expected = [True, False, True]
    """,
    "pydantic": """
        import pydantic
        class Model(pydantic.BaseModel):
            x: float = 1.0
            @pydantic.field_validator("x")
            @classmethod
            def check(cls, x): return x * 2
        def f(): return [Model(x=2).x, Model.model_validate({"x": 3}).model_dump()]
        expected = [4.0, {"x": 6.0}]
    """,
    "globals": """
        import math, json as js
        import numpy as np
        BASE = np.arange(3.0)
        count = 0
        def f():
            global count
            count += 1
            return [math.sqrt(4), js.dumps([1]), BASE.sum(), count]
        expected = [2.0, "[1]", 3.0, 1]
    """,
    "file": """
        def f(): return f.__code__.co_filename
        expected = __file__
    """,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_script_defines_is_rebuilt_elsewhere(kind: str, tmp_path: Path) -> None:
    if kind == "pydantic":
        pytest.importorskip("pydantic")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(KINDS[kind])
        + textwrap.dedent("""
            import sys
            from pathlib import Path
            from workers.function_pickle import dumps
            here = f()
            assert here == expected, here
            Path(sys.argv[1]).write_bytes(dumps((f, expected)))
        """)
    )
    if "count" in KINDS[kind]:  # the state of the first call travels too
        script.write_text(script.read_text().replace("here = f()", "here = expected"))
    run = functools.partial(subprocess.run, check=True, cwd=ROOT)
    run([sys.executable, "-c", STARTER, script, tmp_path / "sent"])
    code = (
        "import sys; from workers.function_pickle import loads; "
        "f, expected = loads(open(sys.argv[1], 'rb').read()); assert f() == expected, f()"
    )
    run([sys.executable, "-P", "-c", code, tmp_path / "sent"], env={"PYTHONPATH": str(ROOT)})


STARTER = "import sys, runpy; sys.argv.pop(0); sys.path.insert(0, '.'); " + (
    "main = sys.modules['__main__']; main.__file__ = sys.argv[0]; "
    "exec(compile(open(sys.argv[0]).read(), sys.argv[0], 'exec'), vars(main))"
)


def test_dill_serves_where_cloudpickle_does_not() -> None:
    weak = weakref.ref(Feed)
    assert loads(dumps(weak))() is not None


def test_a_lock_travels_as_a_new_one() -> None:
    lock, rlock = threading.Lock(), threading.RLock()
    with lock, rlock:
        new, again = loads(dumps([lock, rlock]))
        assert new.acquire(blocking=False)
        assert again.acquire(blocking=False)
        assert type(again) is type(rlock)


def test_a_module_that_no_other_process_finds_travels_by_value() -> None:
    import cloudpickle

    before = set(cloudpickle.list_registry_pickle_by_value())
    module = types.ModuleType("made_by_hand")
    exec("FACTOR = 3\ndef f(x): return FACTOR * x\nclass C: pass", vars(module))
    sys.modules["made_by_hand"] = module
    try:
        data = dumps((vars(module)["f"], vars(module)["C"]))
        vars(module)["FACTOR"] = 4
    finally:
        del sys.modules["made_by_hand"]
    function, kind = loads(data)
    assert (function(2), kind.__name__) == (6, "C")
    assert set(cloudpickle.list_registry_pickle_by_value()) == before, "the caller's as before"


def test_a_librarys_module_travels_by_name() -> None:
    import os.path

    import numpy.random
    import scipy.stats

    assert len(dumps((os.path.join, numpy.random.rand, scipy.stats.norm.pdf, Path))) < 20_000
    for module in (os.path, numpy.random, scipy.stats):
        assert loads(dumps(module)) is module


# -- what cannot travel --------------------------------------------------------


def stuck() -> Any:
    return (number for number in range(3))


class Feed:
    def __init__(self) -> None:
        self.link = {"in": [1, stuck()]}

    def method(self) -> None: ...


class Slotted:
    __slots__ = ("feed",)

    def __init__(self) -> None:
        self.feed = stuck()


HELD = stuck()


def by_closure() -> Callable[..., Any]:
    feed = Feed()
    return lambda *_: feed


def by_global() -> Callable[..., Any]:
    space: dict[str, Any] = {"feed": Feed()}
    exec("def f(): return [(lambda: feed) for _ in ()]", space)
    function: Callable[..., Any] = space["f"]
    function.__module__ = "__main__"
    return function


def by_default() -> Callable[..., Any]:
    return lambda a, b=HELD, *, c=1: b


def by_keyword() -> Callable[..., Any]:
    return lambda a, *, c=HELD: c


def by_partial() -> Callable[..., Any]:
    return functools.partial(max, 1, key=stuck())


def by_inner_function() -> Callable[..., Any]:
    inner = by_default()
    return lambda *_: inner()


def by_slot() -> Callable[..., Any]:
    slotted = Slotted()
    return lambda *_: slotted


def by_cycle() -> Callable[..., Any]:
    cycle: list[Any] = []
    cycle += [cycle, {"again": cycle, "it": stuck()}]
    return lambda *_: cycle


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (by_closure, "closure variable 'feed', attribute 'link', key 'in', item 1"),
        (by_global, "global 'feed', attribute 'link', key 'in', item 1"),
        (by_default, "default of argument 'b'"),
        (by_keyword, "default of argument 'c'"),
        (by_partial, "argument 'key' of the partial"),
        (lambda: Feed().method, "its object, attribute 'link', key 'in', item 1"),
        (by_inner_function, "closure variable 'inner', default of argument 'b'"),
        (by_slot, "closure variable 'slotted', attribute 'feed'"),
        (by_cycle, "closure variable 'cycle', item 1, key 'it'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_travel_is_named_with_its_place(
    make: Callable[[], Callable[..., Any]], where: str
) -> None:
    with pytest.raises(ConfigError) as failure:
        pickle_function(make())
    line = str(failure.value)
    assert line.startswith(f"the function cannot be sent to a worker: {where} is a generator, ")
    assert "cannot pickle 'generator' object" in line
    assert "\n" not in line
