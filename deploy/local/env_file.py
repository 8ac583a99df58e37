"""The repo's `.env`, by which Prefect finds the platform from a plain shell. Touches only its own block."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

BEGIN, END = "# churn platform: written by `make run`", "# churn platform: end"
SECRET = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")  # go when the platform goes; PREFECT_HOME may stay


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """Write or replace our block; lines around it stay. The file is 0600 from then on."""
    lines = [f"{name}={_quoted(value)}" for name, value in values.items()]
    _write(path, [*_foreign(_read(path)), BEGIN, *lines, END])


def clear_env(path: Path, *, auth_string: str) -> None:
    """Take URL and secret out of our block, if it is the platform with this secret that wrote it."""
    lines = _read(path)
    block = _block(lines)
    if f"PREFECT_API_AUTH_STRING={_quoted(auth_string)}" in block:
        kept = [line for line in block if line.partition("=")[0] not in SECRET]
        _write(path, [*_foreign(lines), BEGIN, *kept, END])


def _read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _block(lines: list[str]) -> list[str]:
    if BEGIN not in lines or END not in lines:
        return []
    return lines[lines.index(BEGIN) + 1: lines.index(END)]


def _foreign(lines: list[str]) -> list[str]:
    if BEGIN not in lines or END not in lines:
        return lines
    return [*lines[: lines.index(BEGIN)], *lines[lines.index(END) + 1:]]


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _write(path: Path, lines: list[str]) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    beside.rename(path)
