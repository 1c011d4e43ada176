"""Other people's launchers, as they are: what they submit is registered, and ends with the run."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys

import pytest

from tests.cluster.install import SLURMRAY_HOME
from tests.cluster.place import ClusterPlace, verified
from tests.support.cli import Started
from tests.support.waiting import LONG_S, wait_for

pytestmark = pytest.mark.slurm

SUBMITIT = """
import os, time, submitit
HERE = os.environ["HERE"]
executor = submitit.AutoExecutor(folder=HERE + "/submitit", cluster="slurm")
executor.update_parameters(timeout_min=10, slurm_array_parallelism=4)
jobs = [executor.submit(time.sleep, 600), *executor.map_array(time.sleep, [600, 600])]
open(HERE + "/ready", "w").close()
[job.result() for job in jobs]
"""

DASK = """
import os, time
from dask_jobqueue import SLURMCluster
from distributed import Client
HERE = os.environ["HERE"]
if __name__ == "__main__":
    cluster = SLURMCluster(cores=1, memory="1GB", walltime="00:10:00", interface="lo",
                           log_directory=HERE, local_directory=HERE,
                           scheduler_options={"dashboard_address": None})
    cluster.scale(jobs=2)
    client = Client(cluster)
    client.wait_for_workers(1)
    future = client.submit(time.sleep, 600)
    open(HERE + "/ready", "w").close()
    future.result()
"""

# its job fails for want of Ray, but only after half a minute
SLURMRAY = """
import os
HERE = os.environ["HERE"]
os.chdir(HERE)
from slurmray.RayLauncher import Cluster
def work():
    pass
launcher = Cluster(project_name="p", memory=1, num_cpus=1, max_running_time=10,
                   server_run=False)
open(HERE + "/ready", "w").close()
launcher(work, cancel_old_jobs=False)
"""

PACKAGES = {
    "submitit": (SUBMITIT, 2, "pip install 'submitit>=1.5,<1.6'"),
    "dask_jobqueue": (DASK, 2, "pip install 'dask-jobqueue>=0.9,<0.10'"),
    "slurmray": (SLURMRAY, 1, "python -m tests.cluster install"),
}


def started(there: ClusterPlace, package: str) -> tuple[Started, int]:
    """Start a script that uses a package under ``allstop run``, and wait for its jobs."""
    body, jobs, how = PACKAGES[package]
    if package == "slurmray":  # what it is pinned to is not what we use: it has its own
        there.env["PYTHONPATH"] += f"{os.pathsep}{SLURMRAY_HOME}"
        found = SLURMRAY_HOME.is_dir()
    else:
        found = importlib.util.find_spec(package) is not None
    if not found:
        pytest.skip(f"{package} is not installed: {how}")
    script = there.root / f"with_{package}.py"
    script.write_text(body)
    there.env["USER"] = "somebody"
    run = there.argv("run", "--run-dir", str(there.root / "run"), "--", sys.executable)
    begun = there.start([*run, str(script)], start_new_session=True)
    begun.wait_for(there.mark("ready").exists, "the launcher at work", timeout_s=LONG_S)
    there.wait_jobs(jobs)
    return begun, jobs


@pytest.mark.parametrize("package", PACKAGES)
def test_a_stop_cancels_its_jobs(there: ClusterPlace, package: str) -> None:
    begun, jobs = started(there, package)
    listed = there.facts("jobs", str(begun.run_dir))["jobs"]
    assert {job["id"] for job in listed} == set(there.jobs())
    begun.signal(signal.SIGINT)
    assert begun.end() == 128 + signal.SIGINT, begun.tell()
    there.assert_no_jobs()
    assert len(verified(begun.report)) >= jobs
    there.assert_nothing_outstanding()
    begun.assert_gone()


@pytest.mark.parametrize("package", PACKAGES)
def test_its_jobs_go_when_everything_is_killed(there: ClusterPlace, package: str) -> None:
    begun, jobs = started(there, package)
    begun.look_below()
    os.killpg(begun.front, signal.SIGKILL)
    begun.end()
    wait_for(lambda: not there.alive_jobs(), "the jobs gone", tell=begun.tell)
    assert len(verified(begun.wait_report())) >= jobs
    there.assert_no_jobs()
    wait_for(lambda: not there.outstanding, "no outstanding jobs")
    begun.assert_gone()
