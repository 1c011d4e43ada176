"""Getting what a cluster needs: asked for where it may be, harmless, never a reason to fail."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.cluster import install as module
from tests.cluster.install import install, missing, why_not


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the stead of the one that keeps packages from starting services."""
    monkeypatch.setattr(module, "_POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(module, "missing", lambda _: ["a-package"])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name, **_: name == "apt-get" or None)
    return tmp_path / "policy-rc.d"


def test_what_is_missing_is_named_by_its_package() -> None:
    assert missing({"sh": "dash", "no-such-program": "no-such-package"}) == ["no-such-package"]
    assert why_not({"sh": "dash"}) == ""
    assert "apt-get install no-such-package" in why_not({"no-such-program": "no-such-package"})


def test_who_is_not_root_is_told(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert install() == "apt-get needs root"


def test_where_there_is_no_apt_it_says_so(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert install() == "there is no apt-get here"


def test_services_are_kept_off_meanwhile(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def apt(*arguments: str) -> None:
        done.append((arguments[0], os.access(policy, os.X_OK), "exit 101" in policy.read_text()))

    monkeypatch.setattr(module, "_apt", apt)
    assert install() == ""
    assert done == [("update", True, True), ("install", True, True)]
    assert not policy.exists()


def test_a_policy_of_the_machine_s_own_stays(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.write_text("#!/bin/sh\nexit 104\n")
    monkeypatch.setattr(module, "_apt", lambda *_: None)
    assert install() == ""
    assert policy.read_text() == "#!/bin/sh\nexit 104\n"


def test_apt_that_fails_is_a_reason_not_an_error(
    policy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    apt_get = tmp_path / "apt-get"
    apt_get.write_text("#!/bin/sh\necho no network >&2\nexit 100\n")
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert install() == "apt-get update: no network"
    assert not policy.exists()
