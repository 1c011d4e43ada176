"""A cancel over SSH whose answer is lost: it is not believed, and is continued."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from slurm import Client, SshTransport
from slurm.errors import TransportError
from slurm.transport import CALL_TIMEOUT_S, NO_VARIABLES, Answer
from tests.cluster.jobs import LONG, wait_state
from tests.cluster.lab import Lab
from tests.cluster.proxy import Proxy
from tests.cluster.sshd import Sshd
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.ssh]

# cancels, then keeps its answer to itself for as long as the test wants
SLOW_SCANCEL = """\
#!/bin/sh
PATH=${{PATH#*:}} scancel "$@"
touch {folder}/sent
while [ ! -e {folder}/cut ]; do sleep 0.02; done
"""


class CutAtCancel(SshTransport):
    """The link breaks when the first ``scancel`` was obeyed and before its answer is read."""

    def __init__(self, proxy: Proxy, config: Path, folder: Path) -> None:
        super().__init__("proxy", config=config)
        self.proxy = proxy
        self.folder = folder
        self.lost: list[TransportError] = []
        script = folder / "scancel"
        script.write_text(SLOW_SCANCEL.format(folder=folder))
        script.chmod(0o755)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        variables: Mapping[str, str] = NO_VARIABLES,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Answer:
        if argv[0] == "scancel" and not self.lost:
            variables = {**variables, "PATH": f"{self.folder}:{os.environ['PATH']}"}
            threading.Thread(target=self._cut).start()
        try:
            return super().run(argv, stdin=stdin, variables=variables, timeout_s=timeout_s)
        except TransportError as error:
            self.lost.append(error)
            raise

    def _cut(self) -> None:
        wait_for((self.folder / "sent").exists, "the cancel")
        self.proxy.cut()
        (self.folder / "cut").touch()


def test_a_cancel_whose_answer_is_lost_is_finished_on_a_new_connection(
    lab: Lab, sshd: Sshd, proxy: Proxy, tmp_path: Path
) -> None:
    transport = CutAtCancel(proxy, sshd.ssh_config, tmp_path)
    with Client(transport, lease_s=0) as client:
        job = client.submit(command=LONG)
        wait_state(lab, job, "RUNNING")
        cancelled = client.cancel()
    assert [error.may_have_run for error in transport.lost] == [True]
    assert (proxy.cuts, proxy.accepted) == (1, 2)
    assert cancelled.complete, cancelled
    assert [(one.id, one.state) for one in cancelled.jobs] == [(job, "cancelled")]
    assert not client.outstanding
