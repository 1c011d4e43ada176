"""Random kills at random instants of runs that submit jobs: none may be left.

``python -m tests.cluster.chaos --rounds N --seed S``. A seed tells a round entirely, but
for what the machine makes of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self

from supervisor.system import process
from supervisor.system.process import Identity
from tests.cluster.daemon import ClusterError, new_directory
from tests.cluster.lab import Lab
from tests.cluster.place import ClusterPlace, job
from tests.cluster.proxy import Proxy
from tests.cluster.sshd import Sshd
from tests.support.cli import ROOT, Started
from tests.support.processes import present
from tests.support.waiting import wait_for

ORDERLY = ("sigint", "sigint twice", "stop", "stop --now")
KILLS = ("front", "warden", "both", "group")
SUBMITTERS = ("shim", "sbatch")
TARGETS = (*KILLS, *SUBMITTERS, *ORDERLY)
OF_THE_CLUSTER = ("frozen", "munge frozen", "munge dead", "controller dead")
OF_THE_LINK = ("link cut", "link stalled", "link refused", "sshd dead", "sshd frozen")
FAULTS = ("none", *OF_THE_CLUSTER, *OF_THE_LINK)
MOMENTS = ("clock", "sbatch", "jobs", "command over")
REMOTE = 0.25
"""Share of the rounds that are a sweep over SSH; the others are a command on this machine."""
LONG_S = 10.0
"""How long one fault in six lasts."""
WAYS = {
    "plain": job("sleep 600"),
    "parsable": job("sleep 600", "--parsable"),
    "array": job("sleep 600", "--array=0-5"),
    "held": job("sleep 600", "--hold"),
    "deaf": job("trap '' TERM; sleep 600 & while :; do wait; done"),
    "absolute": "/usr/bin/sbatch -o /dev/null --wrap 'sleep 600';",
    "nested": job("sbatch -o /dev/null --wrap 'sleep 600'; sleep 600"),
    "waiting": job("sleep 600", "--wait") + "true;",
    "wave": "for i in 1 2 3 4 5 6 7 8; do " + job("sleep 600") + "done;",
    "crowd": "for i in 1 2 3 4 5 6; do " + job("sleep 600")[:-1] + "& done; wait;",
}


@dataclass(frozen=True)
class Scenario:
    """What is submitted, and what befalls whom and when."""

    seed: int
    ways: tuple[str, ...]
    stays: bool
    target: str
    moment: str
    after_s: float
    fault: str
    fault_s: float
    containment: str
    remote: bool


def scenario(seed: int) -> Scenario:
    """Draw a round."""
    draw = random.Random(seed)
    if draw.random() < REMOTE:
        return _remote_scenario(seed, draw)
    moment = draw.choice(MOMENTS)
    stays = draw.random() < 0.6 and moment != "command over"
    spread_s = {"clock": 2.0, "sbatch": 0.02, "jobs": 0.5, "command over": 1.0}[moment]
    ways = draw.sample(sorted(WAYS), draw.randint(1, 4))
    if "waiting" in ways:  # it comes to its end only with its job
        ways.remove("waiting")
        ways.append("waiting")
        moment = "clock" if moment == "command over" else moment
    return Scenario(
        seed, tuple(ways), stays, draw.choice(TARGETS), moment, draw.uniform(0, spread_s),
        draw.choice(("none", "none", "none", *OF_THE_CLUSTER)), _fault_s(draw),
        draw.choice(("auto", "auto", "subreaper")), remote=False,
    )  # fmt: skip


def _remote_scenario(seed: int, draw: random.Random) -> Scenario:
    moment = draw.choice(("clock", "sbatch", "jobs"))
    spread_s = {"clock": 3.0, "sbatch": 0.5, "jobs": 0.5}[moment]
    return Scenario(
        seed, (), True, draw.choice((*KILLS, *ORDERLY)), moment, draw.uniform(0, spread_s),
        draw.choice(("none", *OF_THE_CLUSTER, *OF_THE_LINK, *OF_THE_LINK)), _fault_s(draw),
        draw.choice(("auto", "auto", "subreaper")), remote=True,
    )  # fmt: skip


def _fault_s(draw: random.Random) -> float:
    return LONG_S if draw.random() < 1 / 6 else draw.uniform(0.1, 3.0)


@dataclass(frozen=True)
class Site:
    """A cluster, and the way to it from afar."""

    lab: Lab
    sshd: Sshd
    proxy: Proxy

    @classmethod
    @contextlib.contextmanager
    def up(cls) -> Iterator[Self]:
        """Start one; it is gone at the end."""
        with contextlib.ExitStack() as stack:
            lab = Lab(new_directory())
            stack.callback(lab.down)
            lab.up()
            sshd = Sshd(new_directory(), {"SLURM_CONF": str(lab.slurm_conf)})
            stack.callback(sshd.down)
            sshd.up()
            proxy = stack.enter_context(Proxy(sshd.port))
            sshd.trust("proxy", proxy.port)
            yield cls(lab, sshd, proxy)

    def mend(self) -> None:
        """Undo whatever befell it."""
        self.mend_link()
        self.lab.mend()

    def mend_link(self) -> None:
        """Undo whatever befell the way to it."""
        self.proxy.heal()
        self.sshd.thaw()
        if self.sshd.listener.identity is None:
            self.sshd.start()


@dataclass
class Outcome:
    """What became of a round."""

    scenario: Scenario
    violation: str = ""
    story: str = ""
    jobs: int = 0
    struck: bool = False
    reaped: bool = False
    gone_s: float = 0.0
    round_s: float = 0.0


@dataclass
class Round:
    """One run, and what befalls it."""

    scenario: Scenario
    root: Path
    site: Site
    outcome: Outcome = field(init=False)
    _stop: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.outcome = Outcome(self.scenario)

    def play(self) -> Outcome:
        """Play it; what it leaves behind is told, and cleared away."""
        began = time.monotonic()
        there = ClusterPlace(self.root, self.site.lab)
        try:
            self._play(there)
        except (AssertionError, ClusterError, OSError, subprocess.SubprocessError) as error:
            self.outcome.violation = str(error) or type(error).__name__
            self.outcome.story = f"{self.scenario}\n{there._tell()}"
        finally:
            self.site.mend()
            there.clear()
            self._clear_copies()
        self.outcome.round_s = time.monotonic() - began
        return self.outcome

    def _play(self, there: ClusterPlace) -> None:
        self.site.lab.wait_state(there.bystander, "RUNNING")
        begun = self._begin(there)
        self._await_moment(there, begun)
        _spin(self.scenario.after_s)
        begun.look_below()
        with self._fault():
            self._strike(there, begun)
            _spin(self.scenario.fault_s if self.scenario.fault != "none" else 0.0)
        struck_at = time.monotonic()
        self._see_end(there, begun)
        self.outcome.jobs = len(there.jobs())
        self.outcome.gone_s = time.monotonic() - struck_at
        self._check(there, begun)

    def _begin(self, there: ClusterPlace) -> Started:
        drawn = self.scenario
        if drawn.remote:
            return self._begin_sweep(there)
        script = "touch $HERE/begun; " + " ".join(WAYS[way] for way in drawn.ways)
        if drawn.stays:
            script += " touch $HERE/ready; sleep 600"
        argv = there.shell_argv(script, "--containment", drawn.containment)
        return there.start(argv, start_new_session=True)

    def _begin_sweep(self, there: ClusterPlace) -> Started:
        """Start a sweep whose shards do nothing but wait for their end."""
        there.env["ALLSTOP_SSH_CONFIG"] = str(self.site.sshd.ssh_config)
        del there.env["SLURM_CONF"]
        strategy = there.strategy("def f(bars, params, stop):\n    return stop.wait() and None\n")
        argv = there.argv(
            "run", "--data", str(there.data), "--strategy", strategy, "--grid", "a=0:9",
            "--run-dir", str(there.root / "run"), "--containment", self.scenario.containment,
            "--cluster", "ssh:proxy", "--tasks", "2", "--python", sys.executable,
            "--job", f"setup=export PYTHONPATH={ROOT}",
        )  # fmt: skip
        return there.start(argv, start_new_session=True)

    def _await_moment(self, there: ClusterPlace, begun: Started) -> None:
        moment = self.scenario.moment
        if moment == "clock":
            return
        look: dict[str, Callable[[], object]] = {
            "sbatch": lambda: (
                "submit_intended" in there.ledger
                if self.scenario.remote
                else _programs(begun, "sbatch")
            ),
            "jobs": there.alive_jobs,
            "command over": lambda: "waiting for cluster jobs" in begun.err,
        }
        deadline = time.monotonic() + 20
        while not (look[moment]() or begun.over or time.monotonic() > deadline):
            if moment != "sbatch":
                time.sleep(0.02)

    def _strike(self, there: ClusterPlace, begun: Started) -> None:
        target = self.scenario.target
        if begun.over:
            return
        self.outcome.struck = True
        wardens = [i for pid in process.children(begun.front) if (i := Identity.of(pid))]
        if target == "group":
            os.killpg(begun.front, signal.SIGKILL)
        if target in ("warden", "both"):
            for warden in wardens:
                warden.send(signal.SIGKILL)
            if target == "warden" and not self._needed(begun, wardens):
                begun.popen.terminate()
        if target in ("front", "both"):
            begun.popen.kill()
        if target in ("shim", "sbatch"):
            for program in _programs(begun, "python" if target == "shim" else "sbatch"):
                program.send(signal.SIGKILL)
            begun.popen.send_signal(signal.SIGTERM)
        if target.startswith("sigint"):
            begun.popen.send_signal(signal.SIGINT)
        if target == "sigint twice":
            _spin(0.3)
            begun.popen.send_signal(signal.SIGINT)
        if target.startswith("stop"):  # it goes on while the fault does, and after
            self._stop = subprocess.Popen(
                there.argv("stop", "--all", *target.split()[1:]), cwd=there.work, env=there.env,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def _needed(self, begun: Started, wardens: list[Identity]) -> bool:
        """Whether the run had one of these wardens: one killed before that is replaced."""
        with contextlib.suppress(AssertionError):  # it has ended
            return begun.warden in {who.pid for who in wardens}
        return True

    @contextlib.contextmanager
    def _fault(self) -> Iterator[None]:
        site, fault = self.site, self.scenario.fault
        lab, sshd, proxy = site.lab, site.sshd, site.proxy
        begin: dict[str, Callable[[], None]] = {
            "none": lambda: None,
            "frozen": lab.slurmctld.freeze,
            "controller dead": lab.slurmctld.kill,
            "munge frozen": lab.munged.freeze,
            "munge dead": lab.munged.kill,
            "link cut": proxy.cut,
            "link stalled": proxy.stall,
            "link refused": lambda: (proxy.refuse(), proxy.cut())[1],
            "sshd dead": sshd.kill,
            "sshd frozen": sshd.freeze,
        }
        begin[fault]()
        try:
            yield
        finally:
            site.mend_link()
            for daemon in (lab.munged, lab.slurmctld):
                daemon.thaw()
                daemon.start()
            lab.wait_ready()

    def _see_end(self, there: ClusterPlace, begun: Started) -> None:
        """The front's end, and one ``reap`` if it did not end in order."""
        code = begun.end(150)
        if self._stop is not None:
            self._stop.wait(150)
        if code == -signal.SIGKILL or code == 3 or there.debts:
            self.outcome.reaped = True
            said = there.command("reap")
            assert said.returncode == 0, f"reap: {said.stdout}{said.stderr}"

    def _check(self, there: ClusterPlace, begun: Started) -> None:
        self._assert_no_jobs(there)
        # whatever the controller was told before, it has done when this one has run
        lab = self.site.lab
        sentinel = lab.submit("true", "--output=/dev/null")
        lab.wait_state(sentinel, "COMPLETED")
        self._assert_no_jobs(there)
        if (begun.run_dir / "run.json").exists():
            report = begun.wait_report()
            lost = [one for one in report["jobs"] if not one["verified"]]
            # who was given up says so; that they are gone by now was seen above
            assert not lost or report["exit_code"] == 3, f"not verified: {lost}"
        wait_for(lambda: not there.debts, "nothing owed")
        # a shell that dies of SIGTERM may leave its child on the node: the cluster's own doing
        begun.seen = {one for one in begun.seen | set(there.alive()) if not _in_job(one)}
        wait_for(
            lambda: not present(begun.seen), "every process gone",
            tell=lambda: "\n".join(present(begun.seen)),
        )  # fmt: skip

    def _clear_copies(self) -> None:
        """What a sweep that was stopped keeps on the cluster, for a resume that never comes."""
        with contextlib.suppress(OSError, ValueError):
            run_id = json.loads((self.root / "run" / "run.json").read_text())["run_id"]
            shutil.rmtree(Path.home() / ".allstop" / "runs" / run_id)

    def _assert_no_jobs(self, there: ClusterPlace) -> None:
        if self.scenario.fault != "controller dead":
            there.assert_no_jobs()
        else:  # it may have forgotten the bystander, which is as young as the run
            assert not there.alive_jobs(), there.alive_jobs()


def _programs(begun: Started, name: str) -> list[Identity]:
    """Those below the run that submit: the shim's Python or the real one."""
    found = []
    for pid in process.descendants(begun.front):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            shim = any(word.endswith(b"/shim.py") for word in words)
            real = words[0].endswith(b"/sbatch") or words[0] == b"sbatch"
            if (shim if name == "python" else real) and (identity := Identity.of(pid)):
                found.append(identity)
    return found


def _in_job(identity: Identity) -> bool:
    with contextlib.suppress(OSError):
        environment = Path(f"/proc/{identity.pid}/environ").read_bytes().split(b"\0")
        return any(entry.startswith(b"SLURM_JOB_ID=") for entry in environment)
    return False


def _spin(seconds: float) -> None:
    """Pass a time that was drawn: it is the round's, and waits for nothing."""
    threading.Event().wait(seconds)


def play(
    seeds: range, root: Path, sites: list[Site], tell: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Play rounds, one at a time on each cluster."""
    queue: SimpleQueue[int] = SimpleQueue()
    for seed in seeds:
        queue.put(seed)
    outcomes: list[Outcome] = []

    def work(site: Site) -> None:
        with contextlib.suppress(Empty):
            while True:
                seed = queue.get_nowait()
                place = root / f"s{seed}"
                place.mkdir()
                outcome = Round(scenario(seed), place, site).play()
                outcomes.append(outcome)
                tell(outcome)
                if not outcome.violation:
                    shutil.rmtree(place, ignore_errors=True)

    threads = [threading.Thread(target=work, args=(site,)) for site in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(outcomes) < len(seeds):
        raise ClusterError(f"{len(seeds) - len(outcomes)} rounds were not played: see above")
    return outcomes


def lines(outcomes: list[Outcome]) -> Iterator[str]:
    """The summary."""
    failed = [outcome for outcome in outcomes if outcome.violation]
    struck = [outcome for outcome in outcomes if outcome.struck]
    yield f"{len(outcomes)} rounds, {sum(o.jobs for o in outcomes)} jobs submitted"
    for what in ("target", "moment", "fault", "containment", "remote"):
        counted = Counter(getattr(outcome.scenario, what) for outcome in struck)
        yield f"  by {what}: " + ", ".join(f"{n} {name}" for name, n in counted.most_common())
    if outcomes:
        slowest = max(outcomes, key=lambda outcome: outcome.gone_s)
        yield (
            f"reap was called {sum(o.reaped for o in outcomes)} times; worst time until no job "
            f"was left: {slowest.gone_s:.1f} s (seed {slowest.scenario.seed})"
        )
    yield f"{len(failed)} violations" + "".join(f"\n  {replay(o.scenario.seed)}" for o in failed)


def replay(seed: int) -> str:
    """Command that plays a round once more."""
    return f"python -m tests.cluster.chaos --rounds 1 --seed {seed}"


def main() -> int:
    """Play, tell, and say whether all went well."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--labs", type=int, default=2, help="clusters, a round at a time on each")
    parser.add_argument("--verbose", action="store_true", help="a line for every round")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="allstop-chaos-"))

    def tell(outcome: Outcome) -> None:
        if outcome.violation:
            seed = outcome.scenario.seed
            print(f"VIOLATION, seed {seed}: {outcome.violation}\n{outcome.story}")
            print(f"replay: {replay(seed)}\nfiles: {root / f's{seed}'}", flush=True)
        elif options.verbose:
            print(f"{outcome.round_s:6.2f} s  {outcome.scenario}", flush=True)

    with contextlib.ExitStack() as stack:
        sites = [stack.enter_context(Site.up()) for _ in range(options.labs)]
        seeds = range(options.seed, options.seed + options.rounds)
        outcomes = play(seeds, root, sites, tell)
    print(*lines(outcomes), sep="\n")
    if any(outcome.violation for outcome in outcomes):
        return 1
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
