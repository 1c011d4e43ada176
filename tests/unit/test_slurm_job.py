"""A job's options are checked before SLURM is called; each fault is one line that names it."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.batch.job import Job
from supervisor.errors import ConfigError

COMMAND = ["true"]


def refused(**options: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Job.from_options({"command": COMMAND, **options})
    assert "\n" not in str(caught.value)
    return caught.value


def test_arguments() -> None:
    job = Job(command=COMMAND, cpus=2, time_limit=90, array=3, requeue=True, options=["--nice=1"])
    assert job.arguments("n") == [
        "--job-name=n", "--time=90", "--cpus-per-task=2", "--array=0-2", "--requeue",
        "--open-mode=append", "--nice=1",
    ]  # fmt: skip
    assert Job(command=COMMAND).arguments("n") == ["--job-name=n", "--no-requeue"]


def test_an_unknown_option_is_named_with_the_known_ones() -> None:
    error = refused(cpu=3)
    assert error.key == "cpu"
    for key in fields(Job):
        assert key.name in str(error)


@pytest.mark.parametrize("key", [key.name for key in fields(Job)])
@pytest.mark.parametrize("value", [b"x", 1.5, {"a": 1}, object(), [3], "", "\0", "\ud800", True])
def test_a_value_of_a_wrong_type_is_one_line(key: str, value: object) -> None:
    if key in ("requeue", "hold") and value is True:
        return
    error = refused(**{key: value}) if key != "environment" or value != {"a": 1} else None
    if error:
        assert str(error).startswith(f"{key}: ")
        assert error.key == key


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("time_limit", ["soon", "-1", "1:2:3:4", "1h", "1 ", "١"]),
        ("memory", ["4 G", "4GB", "-1", "4.5G"]),
        ("array", ["a", "1-", "0-9%", "1,,2", 0, -1]),
        ("cpus", [0, -1, "2"]),
        ("tasks", [0, -1]),
        ("command", ["fit.py", [], ["a", 1], ["a\0"], [""], None]),
        ("environment", [{"1A": "x"}, {"A B": "x"}, {"A": 1}, {"A": "\0"}, {"UID": "1"}, ["A=1"],
                         {"SBATCH_WCKEY": "x"}, {1: "x"}]),
        ("setup", ["module load x", [1], ["a\0"]]),
        ("name", ["x" * 257, None, 5]),
    ],
)  # fmt: skip
def test_bad_values(key: str, values: list[object]) -> None:
    for value in values:
        assert refused(**{key: value}).key == key, value


@pytest.mark.parametrize(
    "word",
    [
        "--wckey=x", "--wck=x", "--job-name=x", "--job=x", "--array=1", "--arr=1", "--hold",
        "--wait", "--wrap=x", "--parsable", "--export=NONE", "--test-only", "-J", "-Jx", "-H",
        "-QW", "--", "-", "", "script.sh", "--nice=1\n", "a b", ":",
    ],
)  # fmt: skip
def test_an_option_that_would_undo_ours_is_refused(word: str) -> None:
    refused(options=[word])


@pytest.mark.parametrize(
    "word", ["--exclusive", "--nice=1", "--export-file=x", "--wait-all-nodes=1"]
)
def test_other_options_pass(word: str) -> None:
    assert Job(command=COMMAND, options=[word]).arguments("n")[-1] == word


TEXT = st.text(max_size=20)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": TEXT, "partition": TEXT, "account": TEXT, "output": TEXT, "directory": TEXT,
            "time_limit": TEXT, "memory": TEXT, "array": TEXT, "gpus": TEXT,
        },
    )
)  # fmt: skip
def test_any_value_is_refused_in_one_line_or_stays_one_word(
    options: dict[str, str],
) -> None:
    try:
        job = Job(command=COMMAND, **options)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
        return
    words = job.arguments(job.name)
    assert len(words) == len({*options, "name"}) + 1
    assert all(word.startswith("--") for word in words)
