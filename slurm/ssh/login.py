"""Proving to a host who we are: agent, keys, and only if somebody is there to ask, a password."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko

from slurm.errors import LinkRefusedError, TransportError
from slurm.ssh.config import HostSettings
from slurm.ssh.deadline import Deadline
from slurm.ssh.wire import bounded

Prompt = Callable[[str], str]

_AGENT_LIMIT_S = 3.0
_ATTEMPTS = 3
_TYPING_LIMIT_S = 120.0  # sshd hangs up after that by default


class KeyRing:
    """Keys that were opened once, so that nobody is asked again when the link has to be remade.

    What is kept is the key, as an agent keeps it; the passphrase is not.
    """

    def __init__(self) -> None:
        self._keys: dict[Path, Any] = {}

    def __repr__(self) -> str:
        return f"<KeyRing: {len(self._keys)} keys>"

    def get(self, path: Path) -> Any:
        """Return the key of a file, if it was opened before."""
        return self._keys.get(path)

    def add(self, path: Path, key: object) -> None:
        """Keep an opened key."""
        self._keys[path] = key

    def clear(self) -> None:
        """Forget them all."""
        self._keys.clear()


class Login:
    """One attempt to log in on a connection that has been made, and whose host key is known.

    Parameters
    ----------
    transport : paramiko.Transport
        The connection.
    settings : HostSettings
        Who we are, and by which keys.
    keys : KeyRing
        Keys opened before.
    prompt : callable or None
        Asks a person for a passphrase or a password; None: nobody is there.
    deadline : Deadline
        Does not run while a person types.
    """

    def __init__(
        self,
        transport: Any,
        settings: HostSettings,
        *,
        keys: KeyRing,
        prompt: Prompt | None,
        deadline: Deadline,
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._keys = keys
        self._prompt = prompt if settings.may_prompt else None
        self._deadline = deadline
        self._where = f"ssh {settings.alias}"
        self._ways: list[str] = []
        self._holds = contextlib.ExitStack()
        self._tried: list[str] = []
        self._notes: list[str] = []

    def log_in(self) -> None:
        """Log in by whatever the server takes.

        Raises
        ------
        LinkRefusedError
            If it takes nothing we have; says what was tried, and what could be.
        TransportError
            If the connection is lost meanwhile.
        """
        self._attempt(self._transport.auth_none, self._settings.user)
        with contextlib.ExitStack() as self._holds:
            self._offer_keys()
        for _ in range(_ATTEMPTS):
            if not self._is_in:
                self._answer()
        if not self._is_in:
            raise self._refused()

    @property
    def _is_in(self) -> bool:
        return bool(self._transport.is_authenticated())

    def _offer_keys(self) -> None:
        """Offer one key after the other, until one is enough or keys are not wanted any more."""
        if "publickey" not in self._ways:
            return
        for name, key in self._candidates():
            self._tried.append(name)
            self._attempt(self._transport.auth_publickey, self._settings.user, key)
            if self._is_in or "publickey" not in self._ways:
                return

    def _answer(self) -> None:
        """Let a person prove it."""
        prompt = self._prompt
        user = self._settings.user
        if prompt is not None and "password" in self._ways:
            with self._deadline.standing_still():
                password = prompt(f"{user}@{self._settings.hostname}'s password: ")
            if password:
                self._tried.append("a password")
                self._attempt(self._transport.auth_password, user, password, None, False)
                return
        elif prompt is not None and "keyboard-interactive" in self._ways:
            self._tried.append("questions and answers")
            with self._deadline.standing_still():
                self._attempt(
                    self._transport.auth_interactive,
                    user,
                    _asking(prompt),
                    limit_s=_TYPING_LIMIT_S,
                )
            return
        raise self._refused()

    def _attempt(
        self, log_in: Callable[..., list[str]], *arguments: object, limit_s: float | None = None
    ) -> None:
        """Make one attempt, and note which ways are left after it."""
        self._transport.auth_timeout = limit_s or max(0.1, self._deadline.left_s)
        try:
            # what it returns is what the server wants besides: a second factor
            self._ways = list(log_in(*arguments))
        except paramiko.BadAuthenticationType as error:
            self._ways = list(error.allowed_types)
        except (paramiko.SSHException, EOFError, OSError) as error:
            told = "" if isinstance(error, paramiko.AuthenticationException) else str(error)
            if not self._transport.is_active():
                raise self._hung_up(told) from None
            if self._deadline.passed:
                raise TransportError(
                    f"{self._where}: the login was not answered in time", may_have_run=False
                ) from None
            if told:
                self._notes.append(told)

    def _candidates(self) -> Iterator[tuple[str, Any]]:
        """Keys in the order in which they are offered; those that need a person come last."""
        files = [file for file in self._settings.identity_files if file.is_file()]
        wanted = {blob for file in files if (blob := _public_part(file))}
        agents = self._agent_keys()
        agents.sort(key=lambda key: key.asbytes() not in wanted)
        offered = set()
        for key in agents:
            if key.asbytes() in wanted or not self._settings.identities_only:
                offered.add(key.asbytes())
                yield f"{key.comment or key.get_name()} of the agent", key
        locked = []
        for file in files:
            key = self._keys.get(file)
            if _public_part(file) in offered:
                continue
            if key is None:
                try:
                    key = self._open(file, None)
                except TypeError:  # how cryptography says that it is encrypted
                    locked.append(file)
            if key is not None:
                yield str(file), key
        for file in locked:
            key = self._unlock(file)
            if key is not None:
                yield str(file), key

    def _agent_keys(self) -> list[Any]:
        if not self._settings.use_agent or not os.environ.get("SSH_AUTH_SOCK"):
            return []
        try:
            # a forwarded agent whose connection is gone accepts and says nothing
            agent = bounded(_agent, _AGENT_LIMIT_S)
            self._holds.callback(agent.close)
            return list(agent.get_keys())
        except TimeoutError:
            self._notes.append("the agent does not answer (SSH_AUTH_SOCK)")
        except (paramiko.SSHException, OSError) as error:
            self._notes.append(f"the agent: {error}")
        return []

    def _unlock(self, file: Path) -> Any:
        """Ask for the passphrase of a key; return None if it stays closed."""
        if self._prompt is None:
            self._notes.append(f"{file} is encrypted: ssh-add {file} first")
            return None
        for _ in range(_ATTEMPTS):
            with self._deadline.standing_still():
                passphrase = self._prompt(f"Passphrase for {file}: ")
            if not passphrase:
                break
            key = self._open(file, passphrase.encode())
            if key is not None:
                self._keys.add(file, key)
                return key
        self._notes.append(f"{file} was not opened: wrong passphrase")
        return None

    def _open(self, file: Path, passphrase: bytes | None) -> Any:
        """Read a key; return None, and note why, if that cannot be done."""
        try:
            return paramiko.PKey.from_path(file, passphrase)
        except paramiko.PasswordRequiredException:
            raise TypeError from None
        except OSError as error:
            self._notes.append(f"{file}: {(error.strerror or str(error)).lower()}")
        except (ValueError, paramiko.SSHException, paramiko.UnknownKeyType):
            if passphrase is None:
                self._notes.append(f"{file} is no key that can be read")
        return None

    def _refused(self) -> LinkRefusedError:
        who = f"{self._settings.user}@{self._settings.hostname}"
        tried = ", ".join(self._tried) or "nothing: there is no key"
        story = [f"it takes {' or '.join(self._ways) or 'nothing'}", f"tried {tried}", *self._notes]
        return LinkRefusedError(f"{self._where}: {who} is not let in; {'; '.join(story)}")

    def _hung_up(self, told: str) -> LinkRefusedError | TransportError:
        if len(self._tried) >= 5:  # sshd's MaxAuthTries is 6 by default, and counts
            return LinkRefusedError(
                f"{self._where}: it hung up after {len(self._tried)} keys: "
                "name the right one in ~/.ssh/config (IdentityFile, IdentitiesOnly yes)"
            )
        why = f": {told}" if told else ""
        return TransportError(
            f"{self._where}: it hung up during the login{why}", may_have_run=False
        )


def _public_part(file: Path) -> bytes:
    """Return the public key that lies beside a private one, if there is one."""
    try:
        words = file.with_name(file.name + ".pub").read_text().split()
        return base64.b64decode(words[1], validate=True)
    except (OSError, ValueError, IndexError):
        return b""


def _agent() -> Any:
    """Connect to the agent; unlike paramiko's own, leave no socket behind if that fails."""
    agent = paramiko.Agent.__new__(paramiko.Agent)
    try:
        agent.__init__()
    except BaseException:
        agent.close()
        raise
    return agent


def _asking(prompt: Prompt) -> Callable[[str, str, list[tuple[str, bool]]], list[str]]:
    def answer(_title: str, _instructions: str, questions: list[tuple[str, bool]]) -> list[str]:
        return [prompt(text) for text, _echo in questions]

    return answer
