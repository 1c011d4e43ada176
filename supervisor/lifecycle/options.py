"""Every option of a run, once: the command line, spec files and Python derive theirs from here.

A row of :data:`OPTIONS` says how an option is named in each place, what its values are, how
one is checked, and where it may be used. From the table come the parameters and ``--help`` of
``run`` and ``resume`` (:mod:`supervisor.cli.parameters`), the keys of a spec file
(:mod:`supervisor.lifecycle.spec`), the checks of :func:`supervisor.sweep` and
:func:`supervisor.resume`, and what each of them says about a bad value.

What a user has set travels as a mapping from option to checked value, :data:`Given`; an
option that is not in it was not set. Values on the command line replace those of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Any

from supervisor.errors import ConfigError
from supervisor.lifecycle import checks
from supervisor.market.asked import check_columns, check_symbol
from supervisor.records.plan import check_wait_s

Given = dict[str, Any]
"""What a user has set: checked values by the names of :data:`OPTIONS`."""


class Use(Flag):
    """Where an option may be used."""

    SWEEP = auto()
    """``run`` of a sweep."""
    COMMAND = auto()
    """``run -- CMD``."""
    RESUME = auto()
    """``resume`` and :func:`supervisor.resume`."""
    PYTHON = auto()
    """A keyword of :func:`supervisor.sweep`."""
    CLUSTER = auto()
    """Makes a sweep run on a cluster."""


class Kind(Enum):
    """What an option's values look like on the command line and in a spec file."""

    TEXT = auto()
    PATH = auto()
    """A text; relative to the spec file it is written in."""
    WHOLE = auto()
    NUMBER = auto()
    FLAG = auto()
    """Takes no value on the command line."""
    TABLE = auto()
    """NAME=VALUE, repeatable; a table in a spec file."""


class Group(Enum):
    """Headings of ``--help``."""

    WORK = "What to compute"
    RUN = "How it runs"
    STOP = "Stopping"
    PLACE = "Where it is kept"
    CLUSTER = "On a SLURM cluster"
    OUTPUT = "Output"


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes
    ----------
    name : str
        Its name, and its key in a spec file; ``--name`` with hyphens on the command line.
    kind : Kind
        What its values look like.
    use : Use
        Where it may be used.
    group : Group
        Where ``--help`` shows it.
    help : str
        What ``--help`` says about it.
    check : callable
        Returns a value as it is used, or raises :class:`~supervisor.errors.ConfigError`. Takes
        the value, and the name by which the user wrote it.
    default : object
        The value where none is given; None: there is none, or it is found out later.
    shown : str
        The default as ``--help`` shows it; empty: as it is.
    metavar : str
        What ``--help`` writes in a value's place.
    section : str or None
        Table of a spec file that has the key; empty: the root. None: not in a spec file.
    keyword : str
        Its name in Python; empty: ``name``.
    required : bool
        Whether a spec file and :func:`supervisor.sweep` must have it.
    """

    name: str
    kind: Kind
    use: Use
    group: Group
    help: str
    check: Callable[[Any, str], Any]
    default: Any = None
    shown: str = ""
    metavar: str = ""
    section: str | None = None
    keyword: str = ""
    required: bool = False

    @property
    def flag(self) -> str:
        """The option as the command line has it."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def in_python(self) -> str:
        """The option as Python has it."""
        return self.keyword or self.name

    @property
    def key(self) -> str:
        """The key of a spec file, with its table."""
        return f"{self.section}.{self.name}" if self.section else self.name

    def checked(self, value: Any, name: str, key: str) -> Any:
        """Check a value that the user wrote under ``name``.

        Raises
        ------
        ConfigError
            If the option cannot have it; ``key`` is the error's key.
        """
        try:
            return self.check(value, name)
        except ConfigError as error:
            error.key = key
            raise


_TIMER = Use.SWEEP | Use.COMMAND | Use.RESUME | Use.PYTHON
_CLUSTER = Use.SWEEP | Use.CLUSTER

OPTIONS = (
    Option(
        "data", Kind.PATH, Use.SWEEP | Use.PYTHON, Group.WORK,
        "Price bars (open, high, low, close, volume): a .csv (also .gz, .bz2, .xz, .zst, .zip), "
        ".parquet or .feather file.",
        checks.check_data, shown="an example", metavar="FILE", section="",
    ),
    Option(
        "columns", Kind.TEXT, Use.SWEEP | Use.PYTHON, Group.WORK,
        "What the data's columns are: time,open,high,low,close,volume in their order, - for one "
        "to leave out, or close=NAME,time=NAME.",
        check_columns, shown="found by their names", metavar="NAMES", section="",
    ),
    Option(
        "symbol", Kind.TEXT, Use.SWEEP | Use.PYTHON, Group.WORK,
        "Instrument to take, where the data has several.",
        check_symbol, metavar="NAME", section="",
    ),
    Option(
        "bars_per_year", Kind.NUMBER, Use.SWEEP | Use.PYTHON, Group.WORK,
        "Bars in a year, to annualise the Sharpe ratio with.",
        checks.check_bars_per_year, shown="counted from the data", metavar="N", section="",
    ),
    Option(
        "year_days", Kind.WHOLE, Use.SWEEP | Use.PYTHON, Group.WORK,
        "Trading days in a year, such as 252 or 365, times the bars that the data has in one.",
        checks.check_year_days, shown="365, or 252 where trading pauses daily", metavar="DAYS",
        section="",
    ),
    Option(
        "strategy", Kind.TEXT, Use.SWEEP | Use.PYTHON, Group.WORK,
        "A built-in strategy's name, module:function or path.py:function. Built in: sma_cross "
        "(fast, slow), bollinger_reversion (window, width; standard deviation with ddof 0), "
        "rsi_reversion (window, lower, upper; Wilder's smoothing), donchian_breakout (entry, exit; "
        "channels without the current bar).",
        checks.check_strategy, metavar="NAME", section="", required=True,
    ),
    Option(
        "grid", Kind.TABLE, Use.SWEEP | Use.PYTHON, Group.WORK,
        "Values of one parameter: name=start:stop:step, stop included, or name=a,b,c. "
        "Repeat it for each parameter.",
        checks.check_grid, metavar="NAME=VALUES", section="", required=True,
    ),
    Option(
        "fee", Kind.NUMBER, Use.SWEEP | Use.PYTHON, Group.WORK,
        "Fee of each trade, as a fraction of the traded value.",
        checks.check_fee, default=0.0005, metavar="FRACTION", section="",
    ),
    Option(
        "seed", Kind.WHOLE, Use.SWEEP | Use.PYTHON, Group.WORK,
        "What the random numbers of your own function are derived from, together with the "
        "combination: the same seed, the same rows.",
        checks.check_seed, shown="drawn, and recorded", metavar="N", section="",
    ),
    Option(
        "sort", Kind.TEXT, Use.SWEEP | Use.RESUME | Use.PYTHON, Group.WORK,
        "Metric by which combinations are ranked: the highest value is the best.",
        checks.check_text, shown="sharpe, or the first", metavar="METRIC", section="",
    ),
    Option(
        "ascending", Kind.FLAG, Use.SWEEP | Use.RESUME | Use.PYTHON, Group.WORK,
        "The lowest value is the best.",
        checks.check_flag, default=False, section="",
    ),
    Option(
        "min_trades", Kind.WHOLE, Use.SWEEP | Use.RESUME | Use.PYTHON, Group.WORK,
        "Combinations with fewer trades are not ranked.",
        checks.check_min_trades, default=0, metavar="N", section="",
    ),
    Option(
        "workers", Kind.WHOLE, Use.SWEEP | Use.RESUME | Use.PYTHON, Group.RUN,
        "Number of worker processes.",
        checks.check_workers, shown="one per core, or per GPU", metavar="N", section="",
    ),
    Option(
        "device", Kind.TEXT, Use.SWEEP | Use.RESUME | Use.PYTHON, Group.RUN,
        "Where to compute: cpu; cuda, cuda:0,1 or cuda:GPU-… (CuPy); torch, torch:cpu or "
        "torch:cuda:0 (PyTorch); auto: a GPU if it is expected to be faster, otherwise the CPU. "
        "With cuda, each worker of your own function sees one GPU.",
        checks.check_device, default="auto", metavar="DEVICE", section="",
    ),
    Option(
        "vram_limit", Kind.TEXT, Use.SWEEP | Use.RESUME | Use.PYTHON, Group.RUN,
        "Memory of each GPU that the run may use, such as 8G.",
        checks.check_vram_limit, shown="all that is free", metavar="SIZE", section="",
    ),
    Option(
        "containment", Kind.TEXT, Use.SWEEP | Use.COMMAND | Use.RESUME | Use.PYTHON, Group.RUN,
        "How a stop reaches every process of the run: pid-namespace, cgroup or subreaper; auto: "
        "the strongest that works here.",
        checks.check_containment, default="auto", metavar="NAME", section="",
    ),
    Option(
        "grace", Kind.NUMBER, _TIMER, Group.STOP,
        "Seconds from the request to SIGTERM.",
        check_wait_s, default=2.0, metavar="SECONDS", section="stop", keyword="grace_s",
    ),
    Option(
        "terminate", Kind.NUMBER, _TIMER, Group.STOP,
        "Seconds from SIGTERM to SIGKILL.",
        check_wait_s, default=1.0, metavar="SECONDS", section="stop", keyword="terminate_s",
    ),
    Option(
        "verify", Kind.NUMBER, _TIMER, Group.STOP,
        "Seconds from SIGKILL until what still lives is reported.",
        check_wait_s, default=10.0, metavar="SECONDS", section="stop", keyword="verify_s",
    ),
    Option(
        "run_dir", Kind.PATH, Use.SWEEP | Use.COMMAND | Use.PYTHON, Group.PLACE,
        "Directory for results, report and logs.",
        checks.check_path, shown="runs/<run id>", metavar="DIR", section="",
    ),
    Option(
        "resume", Kind.FLAG, Use.SWEEP, Group.PLACE,
        "If --run-dir already holds this sweep, compute only what is missing.",
        checks.check_flag, default=False,
    ),
    Option(
        "slurm", Kind.FLAG, _CLUSTER, Group.CLUSTER,
        "Compute the sweep as jobs of a SLURM cluster.",
        checks.check_flag, default=False,
    ),
    Option(
        "cluster", Kind.TEXT, _CLUSTER, Group.CLUSTER,
        "Where sbatch is: local, or ssh:HOST. Implies --slurm.",
        checks.check_cluster, default="local", metavar="ADDRESS", section="slurm",
        keyword="address",
    ),
    Option(
        "tasks", Kind.WHOLE, _CLUSTER, Group.CLUSTER,
        "Number of jobs that the sweep is divided into.",
        checks.check_tasks, default=4, metavar="N", section="slurm",
    ),
    Option(
        "job", Kind.TABLE, _CLUSTER, Group.CLUSTER,
        "What each job needs: time_limit=2:00:00, cpus=8, memory=4G … Repeat it for each option.",
        checks.check_job, metavar="KEY=VALUE", section="slurm",
    ),
    Option(
        "python", Kind.TEXT, _CLUSTER, Group.CLUSTER,
        "Python interpreter on the cluster that has allstop installed.",
        checks.check_text, shown="this one", metavar="COMMAND", section="slurm",
    ),
    Option(
        "lease", Kind.WHOLE, _CLUSTER, Group.CLUSTER,
        "Jobs end themselves when this process has been silent for this many seconds; 0: never.",
        checks.check_lease, default=300, metavar="SECONDS", section="slurm", keyword="lease_s",
    ),
    Option(
        "detach", Kind.FLAG, _CLUSTER | Use.COMMAND, Group.CLUSTER,
        "Leave the cluster jobs running when this process ends.",
        checks.check_flag, default=False,
    ),
    Option(
        "retry_failed", Kind.FLAG, Use.RESUME, Group.WORK,
        "Compute failed combinations again.",
        checks.check_flag, default=False,
    ),
    Option(
        "changed_code", Kind.FLAG, Use.RESUME, Group.WORK,
        "Accept a strategy file that was edited since the run began.",
        checks.check_flag, default=False,
    ),
)  # fmt: skip

BY_NAME = {option.name: option for option in OPTIONS}


def used_for(use: Use) -> list[Option]:
    """Return the options that may be used in any of these places."""
    return [option for option in OPTIONS if option.use & use]


def is_set(value: Any) -> bool:
    """Whether a parsed option was on the command line; without it, it is None, False or empty."""
    return not (value is None or value is False or value == [])


def from_command_line(typed: Mapping[str, Any]) -> Given:
    """Read and check options as the command line has them: texts, lists of texts, flags.

    Raises
    ------
    ConfigError
        If a value cannot be used; names the option.
    """
    given: Given = {}
    for name, value in typed.items():
        if is_set(value):
            option = BY_NAME[name]
            given[name] = option.checked(_parse(option, value), option.flag, name)
    return given


def from_python(use: Use, **values: Any) -> Given:
    """Check the keywords of a call from Python; None: not given, where that is the default.

    Raises
    ------
    ConfigError
        If a value cannot be used; names the keyword.
    """
    given: Given = {}
    for option in used_for(use):
        keyword = option.in_python
        if keyword in values and not (values[keyword] is None and _may_be_none(option, use)):
            given[option.name] = option.checked(values[keyword], keyword, option.name)
    return given


def with_defaults(given: Given, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of some options: as given, or the default."""
    return {name: given.get(name, BY_NAME[name].default) for name in names}


def timers(given: Given) -> dict[str, float]:
    """Return the timers that were set, as :class:`~supervisor.records.plan.StopTimes` has them."""
    return {
        option.in_python: given[option.name]
        for option in OPTIONS
        if option.section == "stop" and option.name in given
    }


def on_cluster(given: Given) -> bool:
    """Whether anything that was set asks for a cluster."""
    return any(BY_NAME[name].use & Use.CLUSTER for name in given)


def _may_be_none(option: Option, use: Use) -> bool:
    return Use.RESUME in use or (option.default is None and not option.required)


def _parse(option: Option, value: Any) -> Any:
    """Turn an option's text into a value; the check refuses text that is not a number."""
    if option.name == "grid":
        return _axes(value)
    if option.name == "job":
        return _job_options(value)
    if option.kind in (Kind.WHOLE, Kind.NUMBER):
        return _number(int if option.kind is Kind.WHOLE else float, value)
    return value


def _number(kind: type[int] | type[float], text: str) -> int | float | str:
    try:
        return kind(text)
    except ValueError:
        return text


def _axes(texts: list[str]) -> dict[str, Any]:
    from supervisor.rows.grid import parse_axis  # NumPy: a command's run does without

    axes: dict[str, Any] = {}
    for text in texts:
        name, values = parse_axis(text)
        if name in axes:
            raise ConfigError(f"--grid names {name!r} twice", key="grid")
        axes[name] = values
    return axes


def _job_options(texts: list[str]) -> dict[str, Any]:
    """Read ``--job KEY=VALUE``; the values of keys that take several are gathered."""
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--job {text!r}: write KEY=VALUE: cpus=8", key="job")
        if key in ("options", "setup"):
            options.setdefault(key, []).append(value)
        elif key in ("cpus", "tasks"):
            options[key] = _number(int, value)
        else:
            options[key] = value
    return options
