"""Provenance. Reads the code, the lock file and the installed libraries; says what a result was made with."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

ROOMS: Final = ("flows", "tasks", "models", "feature_repo")  # whose files can change a number
KINDS: Final = (".py", ".sql", ".yaml")
GIT_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Provenance:
    """Code, lock file, libraries and machine."""

    commit: str | None  # None: `git` says why
    clean: bool | None  # no file differs from the commit; None where that cannot be told
    git: str  # "clean", the changed files, or why there is no commit
    files: Mapping[str, str] = field(default_factory=dict)  # path -> twelve hex digits, of `ROOMS`
    lock: str | None = None  # of uv.lock; None: there is none
    libraries: Mapping[str, str] = field(default_factory=dict)  # every installed distribution -> version
    python: str = ""
    machine: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(raw: Mapping[str, Any]) -> Provenance:
        return Provenance(**raw)


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was recorded."""

    what: str
    recorded: str
    now: str

    @property
    def line(self) -> str:
        return f"{self.what}: {self.recorded} when it was recorded, {self.now} now"


def provenance(repo: Path) -> Provenance:
    """What runs now."""
    commit, clean, said = _git(repo)
    return Provenance(
        commit, clean, said, _file_hashes(repo), _hash(repo / "uv.lock"), _libraries(),
        platform.python_version(), f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
    )


def compare(recorded: Provenance, now: Provenance) -> list[Difference]:
    """What differs: commit, files, lock file, each library with both versions, Python."""
    found = []
    if recorded.commit != now.commit:
        found.append(Difference("code commit", recorded.commit or recorded.git, now.commit or now.git))
    if recorded.files != now.files:
        names = sorted(name for name in {*recorded.files, *now.files}
                       if recorded.files.get(name) != now.files.get(name))
        found += [Difference(f"code file {name}", recorded.files.get(name, "absent"), now.files.get(name, "absent"))
                  for name in names]
    if recorded.lock != now.lock:
        found.append(Difference("lock file uv.lock", recorded.lock or "absent", now.lock or "absent"))
    found += [
        Difference(f"library {name}", recorded.libraries.get(name, "absent"), now.libraries.get(name, "absent"))
        for name in sorted({*recorded.libraries, *now.libraries})
        if recorded.libraries.get(name) != now.libraries.get(name)
    ]
    found += [Difference(what, was, here) for what, was, here in (
        ("Python", recorded.python, now.python), ("machine", recorded.machine, now.machine)) if was != here]
    return found


def _git(repo: Path) -> tuple[str | None, bool | None, str]:
    """Commit, whether it was clean, and in words what git says."""
    try:
        commit = _run(repo, "rev-parse", "HEAD").strip()
        changed = [line[3:] for line in _run(repo, "status", "--porcelain", "--", *ROOMS, "uv.lock").splitlines()]
    except FileNotFoundError:
        return None, None, "git is not installed"
    except subprocess.TimeoutExpired:
        return None, None, f"git did not answer within {GIT_SECONDS:.0f} s"
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr).strip().splitlines()
        return None, None, lines[0] if lines else f"git ended with {error.returncode}"
    return commit, not changed, "clean" if not changed else f"changed: {', '.join(changed)}"


def _run(repo: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(repo), *words], capture_output=True, text=True, check=True,
                          timeout=GIT_SECONDS, env={**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"})
    return done.stdout


def _file_hashes(repo: Path) -> dict[str, str]:
    """Of every file that can change a number: what git cannot say where it is absent, or where a tree is not clean."""
    paths = sorted(path for room in ROOMS for path in (repo / room).rglob("*") if path.suffix in KINDS)
    return {path.relative_to(repo).as_posix(): str(_hash(path)) for path in paths}


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else None


def _libraries() -> dict[str, str]:
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        name = one.metadata["Name"]
        if name:  # a half-removed package has none
            found.setdefault(name.lower().replace("_", "-"), one.version)
    return dict(sorted(found.items()))
