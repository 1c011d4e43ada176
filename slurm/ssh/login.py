"""Logs in on a host: by the agent, by key files, and if a user can be asked, by password."""

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
from supervisor.system.printable import printable
from supervisor.system.small_file import check_small, read_small_text

Prompt = Callable[[str], str]

_AGENT_LIMIT_S = 3.0
_ATTEMPTS = 3
_TYPING_LIMIT_S = 120.0  # sshd hangs up after that by default


class KeyRing:
    """Keys that were unlocked once, so that a new connection does not ask for them again.

    It keeps the keys, as an agent does, and not the passphrases.
    """

    def __init__(self) -> None:
        self._keys: dict[Path, Any] = {}

    def __repr__(self) -> str:
        return f"<KeyRing: {len(self._keys)} keys>"

    def get(self, path: Path) -> Any:
        """Return the key of a file, if it was unlocked before."""
        return self._keys.get(path)

    def add(self, path: Path, key: object) -> None:
        """Keep an unlocked key."""
        self._keys[path] = key

    def clear(self) -> None:
        """Forget all keys."""
        self._keys.clear()


class Login:
    """One login, on a connection whose host key was checked.

    Parameters
    ----------
    transport : paramiko.Transport
        The connection.
    settings : HostSettings
        User name and key files.
    keys : KeyRing
        Keys unlocked before.
    prompt : callable or None
        Asks the user for a passphrase or a password; None: there is no user to ask.
    deadline : Deadline
        For the login; paused while the user types.
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
        self._methods: list[str] = []
        self._holds = contextlib.ExitStack()
        self._tried: list[str] = []
        self._notes: list[str] = []

    def log_in(self) -> None:
        """Log in by a method that the server accepts.

        Raises
        ------
        LinkRefusedError
            If the server accepts none of ours; says what was tried, and what it accepts.
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
        """Offer one key after the other, until the server accepts one or takes no more keys."""
        if "publickey" not in self._methods:
            return
        for name, key in self._candidates():
            self._tried.append(name)
            self._attempt(self._transport.auth_publickey, self._settings.user, key)
            if self._is_in or "publickey" not in self._methods:
                return

    def _answer(self) -> None:
        """Have the user type a password, or answer the server's questions."""
        prompt = self._prompt
        user = self._settings.user
        if prompt is not None and "password" in self._methods:
            with self._deadline.paused():
                password = prompt(printable(f"{user}@{self._settings.hostname}'s password: "))
            if password:
                self._tried.append("a password")
                self._attempt(self._transport.auth_password, user, password, None, False)
                return
        elif prompt is not None and "keyboard-interactive" in self._methods:
            self._tried.append("questions and answers")
            with self._deadline.paused():
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
        """Make one attempt, and note which methods the server still accepts."""
        self._transport.auth_timeout = limit_s or max(0.1, self._deadline.left_s)
        try:
            # it returns the methods that the server demands in addition: a second factor
            self._methods = list(log_in(*arguments))
        except paramiko.BadAuthenticationType as error:
            self._methods = list(error.allowed_types)
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
        """Yield keys in the order in which they are offered; those that need the user come last."""
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
                except TypeError:  # so cryptography reports an encrypted key
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
            # a forwarded agent whose connection is lost accepts the call and never answers
            agent = bounded(_agent, _AGENT_LIMIT_S)
            self._holds.callback(agent.close)
            return list(agent.get_keys())
        except TimeoutError:
            self._notes.append("the agent does not answer (SSH_AUTH_SOCK)")
        except (paramiko.SSHException, OSError) as error:
            self._notes.append(f"the agent: {error}")
        return []

    def _unlock(self, file: Path) -> Any:
        """Ask for the passphrase of a key; return None if the key stays locked."""
        if self._prompt is None:
            self._notes.append(f"{file} is encrypted: ssh-add {file} first")
            return None
        for _ in range(_ATTEMPTS):
            with self._deadline.paused():
                passphrase = self._prompt(printable(f"Passphrase for {file}: "))
            if not passphrase:
                break
            key = self._open(file, passphrase.encode())
            if key is not None:
                self._keys.add(file, key)
                return key
        self._notes.append(f"{file} was not unlocked: wrong passphrase")
        return None

    def _open(self, file: Path, passphrase: bytes | None) -> Any:
        """Read a key file; return None, and note why, if it cannot be read."""
        try:
            check_small(file)
            return paramiko.PKey.from_path(file, passphrase)
        except paramiko.PasswordRequiredException:
            raise TypeError from None
        except OSError as error:
            self._notes.append(f"{file}: {(error.strerror or str(error)).lower()}")
        except (ValueError, paramiko.SSHException, paramiko.UnknownKeyType):
            if passphrase is None:
                self._notes.append(f"{file} is not a readable private key")
        return None

    def _refused(self) -> LinkRefusedError:
        who = f"{self._settings.user}@{self._settings.hostname}"
        tried = ", ".join(self._tried) or "nothing: there is no key"
        accepts = " or ".join(self._methods) or "nothing"
        story = "; ".join([f"the server accepts {accepts}", f"tried {tried}", *self._notes])
        return LinkRefusedError(f"{self._where}: login of {who} refused; {story}")

    def _hung_up(self, told: str) -> LinkRefusedError | TransportError:
        if len(self._tried) >= 5:  # sshd's MaxAuthTries is 6 by default, and counts
            return LinkRefusedError(
                f"{self._where}: the server closed the connection after {len(self._tried)} keys: "
                "name the right one in ~/.ssh/config (IdentityFile, IdentitiesOnly yes)"
            )
        why = f": {told}" if told else ""
        return TransportError(
            f"{self._where}: the server closed the connection during the login{why}",
            may_have_run=False,
        )


def _public_part(file: Path) -> bytes:
    """Return the public key beside a private key file, if there is one."""
    try:
        words = read_small_text(file.with_name(file.name + ".pub")).split()
        return base64.b64decode(words[1], validate=True)
    except (OSError, ValueError, IndexError):
        return b""


def _agent() -> Any:
    """Connect to the agent; paramiko's own constructor leaves a socket behind if that fails."""
    agent = paramiko.Agent.__new__(paramiko.Agent)
    try:
        agent.__init__()
    except BaseException:
        agent.close()
        raise
    return agent


def _asking(prompt: Prompt) -> Callable[[str, str, list[tuple[str, bool]]], list[str]]:
    def answer(_title: str, _instructions: str, questions: list[tuple[str, bool]]) -> list[str]:
        return [prompt(printable(text)) for text, _echo in questions]

    return answer
