"""Submits a job so that it can be found again, whichever process dies in the meantime.

The intent, with the token and a number, is on disk before ``sbatch`` runs. The job is
submitted held, its id is recorded, then it is released. A process that dies in between
leaves either no job, or a job that is found by its token and has not started.
"""

from __future__ import annotations

import contextlib
import re
import time

from slurm.batch.job import Job
from slurm.batch.script import Lease, batch_script
from slurm.controller.calls import SUBMIT_TIMEOUT_S, Cluster, is_away
from slurm.controller.query import is_held
from slurm.controller.waiting import backoff
from slurm.errors import SlurmError, SubmissionUnknownError, SubmitRefusedError, TransportError
from slurm.look import look
from slurm.records.book import Keeper
from slurm.records.tokens import job_name, token_variables
from slurm.transport import Answer
from supervisor.errors import ConfigError

_JOB_ID = re.compile(r"(\d+)(;[^\s;]+)?")
_FIND_S = 15.0
_RELEASE_S = 60.0


def submit(cluster: Cluster, keeper: Keeper, job: Job, lease: Lease | None = None) -> str:
    """Submit a job; return its id.

    Raises
    ------
    SubmitRefusedError
        If SLURM refuses it; there is no job.
    SubmissionUnknownError
        If it is not known whether there is a job. It is not submitted again: the submission
        is in the ledger, and a cancel looks for its job.
    LedgerWriteError
        If it could not be recorded; there is no job, or one that is held and never starts.
    SlurmError, TransportError
        If it could not be submitted now, and there is no job; or if it could not be
        released, and is held and recorded.
    """
    number = 1 + max((n for n in keeper.book.submissions if isinstance(n, int)), default=0)
    name = job_name(job.name, keeper.book.token, number)
    keeper.write("submit_intended", number=number, name=name)
    script = batch_script(job, keeper.book.token, lease)
    try:
        answer = _sbatch(cluster, job, name, script, keeper)
    except TransportError as error:
        if not error.may_have_run:
            keeper.remark("submit_refused", number=number, said=str(error))
            raise
        job_id = _find(cluster, keeper, number, str(error))
    except ConfigError as error:
        # no program, or no connection: there is no job. After any other error there may be one
        keeper.remark("submit_refused", number=number, said=str(error))
        raise
    else:
        job_id = _id_of(cluster, keeper, number, answer)
    if not job.hold:
        _release(cluster, job_id)
    return job_id


def _sbatch(cluster: Cluster, job: Job, name: str, script: bytes, keeper: Keeper) -> Answer:
    argv = ["sbatch", "--parsable", "--hold", *job.arguments(name)]
    variables = token_variables(keeper.book.token)
    answer = cluster.call(*argv, stdin=script, variables=variables, timeout_s=SUBMIT_TIMEOUT_S)
    if answer.code != 0 and "wckey" in answer.complaint.lower():
        # AccountingStorageEnforce=wckeys takes only registered ones. The name has the token, too
        return cluster.call(*argv, stdin=script, timeout_s=SUBMIT_TIMEOUT_S)
    return answer


def _id_of(cluster: Cluster, keeper: Keeper, number: int, answer: Answer) -> str:
    if answer.code == 0:
        for line in reversed(answer.stdout.splitlines()):
            if found := _JOB_ID.fullmatch(line.strip()):
                keeper.write("submitted", number=number, job_id=found[1])
                return found[1]
        return _find(cluster, keeper, number, f"sbatch said {answer.stdout.strip()[:80]!r}")
    if answer.code < 0 or is_away(answer.stderr):
        # a client that reports a timeout, or was killed, may have submitted its job: only a look
        # can tell
        return _find(cluster, keeper, number, answer.complaint or f"signal {-answer.code}")
    keeper.remark("submit_refused", number=number, said=answer.complaint)
    raise SubmitRefusedError(cluster.name, "sbatch", answer.code, answer.complaint)


def _find(cluster: Cluster, keeper: Keeper, number: int, said: str) -> str:
    """Look for a job that may exist; its name has the number of its submission."""
    deadline = time.monotonic() + _FIND_S
    for pause in backoff(0.2, 3.0):
        with contextlib.suppress(SlurmError, TransportError):
            look(cluster, keeper)
        job_id = keeper.book.submissions[number].job_id
        if job_id is not None:
            return job_id
        if time.monotonic() + pause > deadline:
            break
        time.sleep(pause)
    raise SubmissionUnknownError(cluster.name, said)


def _release(cluster: Cluster, job_id: str) -> None:
    deadline = time.monotonic() + _RELEASE_S
    for pause in backoff(0.2, 5.0):
        try:
            cluster.ask("scontrol", "release", job_id)
        except (SlurmError, TransportError) as error:
            # it also fails for a job that it has released but no node can run at present
            if not (error.transient or is_held(cluster, job_id)):
                return
            if not error.transient or time.monotonic() + pause > deadline:
                raise
        else:
            return
        time.sleep(pause)
