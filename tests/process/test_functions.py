"""A function finds in its workers what it finds at home: modules, ``sys.argv``, ``__main__``."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.cli import Place
from tests.support.waiting import DEADLINE_S

HELPER = """
import sys
FACTOR = 10.0

def scaled(a):
    return FACTOR * a

def f(bars, params, stop):
    return {"x": scaled(params["a"])}
"""

SWEEPS = """
import json, sys
from pathlib import Path
from supervisor import sweep

HERE = Path(__file__).resolve().parent

def swept(function, **options):
    with sweep(function, {"a": [1, 2, 3]}, HERE / "bars.csv", workers=2, **options) as run:
        table = run.results()
    return table.to_pydict()

def tell(function, **options):
    print(json.dumps(swept(function, **options)))
"""

ROWS = {"a": [1, 2, 3], "x": [10.0, 20.0, 30.0]}


@pytest.fixture
def app(place: Place) -> Path:
    """A folder with a script's helpers, which is not the working directory."""
    app = place.root / "app"
    app.mkdir()
    (app / "helper.py").write_text(HELPER)
    (app / "sweeps.py").write_text(SWEEPS)
    (app / "bars.csv").write_text(place.data.read_text())
    return app


def python(place: Place, *arguments: str | Path, cwd: Path | None = None) -> str:
    """Run a Python of the user's to its end; return what it has printed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd or place.work, env=place.env, text=True,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def last_line(text: str) -> Any:
    return json.loads(text.strip().splitlines()[-1])


def test_modules_beside_a_script_are_found_and_so_they_are_by_a_resume(
    place: Place, app: Path
) -> None:
    script = written(app / "main.py", """
        import helper
        from sweeps import swept, sweep, HERE
        import json, sys
        def later(bars, params, stop):
            '''Ends at the second combination until it is resumed.'''
            if params["a"] == 2 and not (HERE / "again").exists():
                (HERE / "ready").touch()
                stop.wait()
                return None
            return {"x": helper.scaled(params["a"])}
        if __name__ == "__main__":
            print(json.dumps([swept(helper.f), swept("helper:f")]))
            with sweep(later, {"a": [1, 2, 3]}, HERE / "bars.csv", workers=1,
                       run_dir=HERE / "run") as run:
                while not (HERE / "ready").exists():
                    run.wait(0.01)
            (HERE / "again").touch()
    """)  # fmt: skip
    assert last_line(python(place, script)) == [ROWS, ROWS]
    (place.root / "elsewhere").mkdir()
    done = python(place, "-P", "-m", "supervisor", "resume", app / "run",
                  cwd=place.root / "elsewhere")  # fmt: skip
    assert "completed: 3 of 3" in done


@pytest.mark.parametrize(
    "way", ["python -m", "pytest", "pytest by path", "IPython", "spawned", "app"]
)
def test_a_function_is_swept_from_wherever_it_is_defined(place: Place, app: Path, way: str) -> None:
    """In a package, a test file, IPython's ``%run``, a spawned child's main, a Streamlit app."""
    if way == "python -m":
        written(app / "pkg/__init__.py", "")
        written(app / "pkg/inner.py", HELPER)
        written(app / "pkg/__main__.py", """
            from sweeps import tell
            from . import inner
            def f(bars, params, stop):
                from .inner import scaled
                assert scaled is inner.scaled
                return {"x": inner.scaled(params["a"])}
            tell(f)
        """)  # fmt: skip
        found = python(place, "-m", "pkg", cwd=app)
    elif way.startswith("pytest"):
        written(app / "checks/test_it.py", """
            import helper
            from sweeps import tell
            def f(bars, params, stop):
                return {"x": helper.scaled(params["a"])}
            def test_it():
                tell(f)
        """)  # fmt: skip
        mode = "importlib" if way == "pytest by path" else "prepend"
        place.env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        options = [
            "-q",
            "-s",
            "-p",
            "no:cacheprovider",
            "-c",
            "/dev/null",
            "-o",
            f"pythonpath={app}",
        ]
        options += [f"--import-mode={mode}", app / "checks/test_it.py"]
        found = python(place, "-m", "pytest", *options)
        found = next(line for line in found.splitlines() if line.startswith("{"))
    elif way == "app":
        written(app / "page.py", """
            from helper import scaled
            from sweeps import tell
            def f(bars, params, stop):
                return {"x": scaled(params["a"])}
            tell(f)
        """)  # fmt: skip
        runner = written(place.root / "runner.py", """
            import sys, threading, types
            path = sys.argv[1]
            sys.path.insert(0, path.rpartition("/")[0])
            main = types.ModuleType("__main__")
            main.__file__ = path
            sys.modules["__main__"] = main
            code = compile(open(path).read(), path, "exec")
            thread = threading.Thread(target=exec, args=(code, vars(main)))
            thread.start()
            thread.join()
        """)  # fmt: skip
        found = python(place, runner, app / "page.py")
    elif way == "IPython":
        pytest.importorskip("IPython")
        place.env["IPYTHONDIR"] = str(place.root / "ipython")
        written(app / "main.py", """
            from helper import scaled
            from sweeps import tell
            def f(bars, params, stop):
                return {"x": scaled(params["a"])}
            tell(f)
        """)  # fmt: skip
        found = python(place, "-m", "IPython", "--colors=NoColor", "-c", f"%run {app / 'main.py'}")
    else:
        script = written(app / "main.py", """
            import multiprocessing
            import helper
            from sweeps import swept, tell
            def f(bars, params, stop):
                return {"x": helper.scaled(params["a"])}
            def child(_):
                assert f.__module__ == "__mp_main__"
                return swept(f)
            if __name__ == "__main__":
                import json
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    print(json.dumps(pool.map(child, [0])[0]))
        """)  # fmt: skip
        found = python(place, script)
    assert last_line(found) == ROWS


def test_what_a_program_reads_when_it_is_imported_is_its_own(place: Place, app: Path) -> None:
    script = written(app / "main.py", """
        import argparse, sys
        import __main__
        parser = argparse.ArgumentParser()
        parser.add_argument("--fast", type=int, default=3)
        FAST = parser.parse_args(sys.argv[1:] if sys.argv[0].endswith("main.py") else None).fast
        ran = __name__ == "__main__"
        def f(bars, params, stop):
            import multiprocessing, __main__ as now
            with multiprocessing.get_context("fork").Pool(1) as pool:  # finds `double` by name
                twice = pool.map(double, [params["a"]])[0]
            return {"argv": sys.argv == [__file__], "main": now.__file__ == __file__,
                    "ran": ran, "fast": FAST, "twice": twice}
        def double(a):
            return 2.0 * a
        if ran and len(sys.argv) > 2:
            from sweeps import tell
            f({}, {"a": 1}, None)
            sys.argv.append("--unknown")
            tell(f)
            tell(__file__ + ":f")
    """)  # fmt: skip
    sent, imported = map(json.loads, python(place, script, "--fast", "5").splitlines())
    expected = {"argv": [1.0] * 3, "main": [1.0] * 3, "twice": [2.0, 4.0, 6.0]}
    assert sent == {"a": [1, 2, 3], **expected, "ran": [1.0] * 3, "fast": [5.0] * 3}
    assert imported == {"a": [1, 2, 3], **expected, "ran": [0.0] * 3, "fast": [3.0] * 3}
    place.env["PYTHONPATH"] += f":{app}"
    done = place.command("run", "--strategy", "main:f", "--grid", "a=1,2,3", "--data",
                         str(place.data), "--json")  # fmt: skip
    assert json.loads(done.stdout)["combos_failed"] == 0, done.stdout


def test_a_module_that_ends_the_program_is_told_in_one_line(place: Place, app: Path) -> None:
    script = written(app / "ends.py", """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("file")
        parser.parse_args()
        def f(bars, params, stop): return {"x": 1.0}
    """)  # fmt: skip
    done = place.command("run", "--strategy", f"{script}:f", "--grid", "a=1,2,3", "--workers", "2")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "imported" in line]
    assert "SystemExit: 2 (ends.py:5)" in line
    assert "if __name__ == '__main__':" in line


DRAWS = """
import random
import numpy as np

def f(bars, params, stop):
    a = [random.random(), np.random.rand(), np.random.normal(), stop.rng.random()]
    order = {"some", "texts", "in", "a", "set"}  # by their hashes
    return dict(zip("xyzw", a)) | {"order": " ".join(order)}
"""


def results(place: Place, name: str, *options: str, body: str = DRAWS) -> dict[str, list[float]]:
    """Run a sweep of 60 combinations; return its metrics."""
    done = place.command(
        "run", "--data", str(place.data), "--strategy", place.strategy(body), "--grid", "a=0:59",
        "--run-dir", str(place.root / name), "--json", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return read_table(place, name)


def read_table(place: Place, name: str) -> dict[str, list[float]]:
    columns: dict[str, list[float]] = pq.read_table(
        place.root / name / "results.parquet"
    ).to_pydict()
    return columns


def test_rows_depend_on_the_seed_alone_and_it_is_recorded(place: Place) -> None:
    first = results(place, "a", "--seed", "7", "--workers", "1")
    for name in "xyzw":
        assert len(set(first[name])) == 60, f"{name}: each combination draws its own"
    assert results(place, "b", "--seed", "7", "--workers", "4") == first
    drawn = results(place, "c", "--workers", "2")
    assert not set(drawn["x"]) & set(first["x"])
    for name, expected in (("a", 7), ("b", 7)):
        for file in ("run.json", "report.json"):
            assert json.loads((place.root / name / file).read_text())["seed"] == expected
    seed = json.loads((place.root / "c/run.json").read_text())["seed"]
    spec = place.root / "again.toml"
    spec.write_text(
        f'strategy = "strategy.py:f"\ndata = "bars.csv"\nseed = {seed}\nrun_dir = "d"\n'
        '[grid]\na = "0:59"\n'
    )
    assert place.command("run", str(spec), "--json").returncode == 0
    assert read_table(place, "d") == drawn, "a seed that was drawn gives the same rows again"
    said = place.command("run", str(spec), "--resume", "--seed", "8")
    assert said.returncode == 2
    assert f"its seed is {seed}, not 8" in said.stderr


def test_errors_are_shown_with_counts_and_an_example(place: Place) -> None:
    body = """
        def f(bars, params, stop):
            if params["a"] % 2:
                raise ValueError(f"window {params['a']} is odd")
            if params["a"] == 4:
                raise SystemExit(2)
            return {"x": 1.0, "note": object(), "side": "long"}
    """
    done = place.command(*place.run_argv(body, n=10, json=False)[4:])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    at = lines.index("failed, the commonest errors first:")
    assert lines[at + 1].startswith("  5 × ValueError: window 1 is odd (strategy.py:")
    assert lines[at + 1].endswith("such as at a=1")
    assert lines[at + 2].startswith("  1 × SystemExit: 2 (strategy.py:")
    said = [line for line in lines if "metric note is" in line]
    assert said == ["note: metric note is an object, not a number, a text or a time: dropped"]
    report = json.loads((place.root / "run/report.json").read_text())
    assert (report["combos_done"], report["combos_failed"]) == (10, 6)
    assert read_table(place, "run")["side"][:3] == ["long", None, "long"]


def test_a_class_of_the_script_in_a_checkpoint_is_the_functions_own(
    place: Place, app: Path
) -> None:
    """A checkpoint goes to another worker, and what it holds is still of the same class."""
    script = written(app / "main.py", """
        import os, signal
        from sweeps import tell, HERE
        class State:
            def __init__(self, done): self.done = done
        def f(bars, params, stop):
            state = stop.load_checkpoint(State(0))
            assert type(state) is State
            if state.done == 0 and params["a"] == 2:
                state.done = 1
                stop.checkpoint(state)
                os.kill(os.getpid(), signal.SIGKILL)
            return {"x": 10.0 * params["a"], "done": state.done}
        tell(f)
    """)  # fmt: skip
    assert last_line(python(place, script)) == ROWS | {"done": [0.0, 1.0, 0.0]}
