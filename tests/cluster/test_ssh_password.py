"""Hosts that want a password, a code, or a key and one of these: a person is asked, nobody else."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("paramiko")

from slurm.errors import LinkRefusedError
from slurm.ssh.transport import SshTransport
from tests.cluster.sshd import Sshd
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.ssh,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("unshare") is None,
        reason="needs root to have a password of the test's own",
    ),
]

PASSWORD = "open sesame"
_HASH = (
    "$6$allstop$itjqyOqCpG7JwglWjJGcjYo6rHzbYqtvZasg/Ck7"
    "VBa7txnyRyXU8jiasFzX9QOg9RrsBzkhV4AU8/.Z10tDV1"
)
IN_A_PLACE_OF_ITS_OWN = 'mount --bind "$0" /etc/shadow && exec "$@"'
"""Only this sshd and what it starts see the other file."""


class Person:
    """Somebody who is asked, and answers one after the other."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, question: str) -> str:
        self.asked.append(question.strip())
        return self.answers.pop(0) if self.answers else ""


@pytest.fixture
def wants(sshd: Sshd) -> Callable[..., None]:
    """Start the sshd anew with lines before the others of its configuration."""
    shadow = sshd.directory / "shadow"
    shadow.write_text(f"{pwd.getpwuid(os.geteuid()).pw_name}:{_HASH}:19000:0:99999:7:::\n")
    shadow.chmod(0o600)
    config = sshd.directory / "sshd_config"
    place = ["unshare", "--mount", "sh", "-c", IN_A_PLACE_OF_ITS_OWN, str(shadow)]

    def restart(*lines: str) -> None:
        sshd.listener.kill()
        config.write_text("\n".join([*lines, config.read_text()]))
        sshd.listener.argv[:0] = place
        sshd.start()

    return restart


@pytest.fixture
def connect(sshd: Sshd, no_leaks: None) -> Iterator[Callable[[Person | None], SshTransport]]:
    """Make transports that may ask, in whose configuration no key is named."""
    made = []
    text = sshd.ssh_config.read_text().replace("BatchMode yes", "BatchMode no")
    sshd.ssh_config.write_text(text)

    def make(person: Person | None) -> SshTransport:
        made.append(SshTransport("cluster", config=sshd.ssh_config, prompt=person))
        return made[-1]

    yield make
    for transport in made:
        transport.close()


def forget_keys(sshd: Sshd) -> None:
    (sshd.directory / "authorized_keys").write_text("")


PLAIN = ["UsePAM no", "PasswordAuthentication yes"]
BY_PAM = ["UsePAM yes", "KbdInteractiveAuthentication yes"]


def needs_pam(lines: list[str]) -> None:
    if "UsePAM yes" in lines and not Path("/etc/pam.d/sshd").exists():
        pytest.skip("no PAM here")


@pytest.mark.parametrize("lines", [PLAIN, BY_PAM], ids=["password", "questions"])
def test_a_password_is_asked_for_and_never_told(
    sshd: Sshd,
    wants: Callable[..., None],
    connect: Callable[[Person | None], SshTransport],
    lines: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    needs_pam(lines)
    caplog.set_level(logging.DEBUG)
    wants(*lines)
    forget_keys(sshd)
    person = Person("wrong", PASSWORD)
    transport = connect(person)
    assert transport.run(["true"]).code == 0
    assert transport.run(["true"]).code == 0
    assert len(person.asked) == 2, "one connection, one login"
    assert all("assword:" in question for question in person.asked)
    assert PASSWORD not in repr(vars(transport)) + repr(transport) + caplog.text
    assert PASSWORD not in sshd.listener.log.read_text()


@pytest.mark.parametrize(
    ("lines", "second"),
    [(PLAIN, "password"), (BY_PAM, "keyboard-interactive")],
    ids=["password", "questions"],
)
def test_a_key_and_a_second_factor(
    wants: Callable[..., None],
    connect: Callable[[Person | None], SshTransport],
    lines: list[str],
    second: str,
) -> None:
    needs_pam(lines)
    wants(f"AuthenticationMethods publickey,{second}", *lines)
    person = Person(PASSWORD)
    assert connect(person).run(["true"]).code == 0
    assert len(person.asked) == 1


def test_after_a_loss_it_is_asked_for_again(
    sshd: Sshd, wants: Callable[..., None], connect: Callable[[Person | None], SshTransport]
) -> None:
    """A password is not kept."""
    wants(*PLAIN)
    forget_keys(sshd)
    person = Person(PASSWORD, PASSWORD)
    transport = connect(person)
    assert transport.run(["true"]).code == 0
    sshd.drop()
    wait_for(lambda: not sshd.connections(), "the connection lost")
    assert transport.run(["true"]).code == 0
    assert len(person.asked) == 2


@pytest.mark.parametrize(
    ("person", "says"),
    [(Person("a", "b", "c", "d"), "tried .*a password"), (None, "it takes .*password"),
     (Person(""), "it takes .*password")],
    ids=["wrong", "nobody", "nothing"],
)  # fmt: skip
def test_whoever_cannot_answer_is_told_what_was_wanted(
    sshd: Sshd,
    wants: Callable[..., None],
    connect: Callable[[Person | None], SshTransport],
    person: Person | None,
    says: str,
) -> None:
    wants(*PLAIN)
    forget_keys(sshd)
    with pytest.raises(LinkRefusedError, match=says) as caught:
        connect(person).run(["true"])
    assert "\n" not in str(caught.value)
    assert person is None or len(person.asked) <= 3
