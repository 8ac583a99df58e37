"""`make api-key NAME=crm`: prints a new API key, once, and appends its hash to the file CHURN_API_KEYS names.

Releases look at the file every second. To take a key back, remove its line.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local.command import command
from flows.settings import load_settings
from models.errors import ConfigError
from models.serving.api_keys import read_hashes


def add_key(path: Path, name: str) -> str:
    """Make a key, write its hash down, and return it: nobody can tell it again.

    Raises:
        ConfigError: the name cannot be used, is taken, or the file cannot be written.
        ReleaseError: the file holds something else.
    """
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        raise ConfigError(f"cannot make a key for NAME={name!r}: 1 to 64 letters, digits, points and dashes are a "
                          "name. Write: make api-key NAME=crm")
    key = secrets.token_urlsafe(32)
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.fchmod(file.fileno(), 0o600)
            if name in read_hashes(path):
                raise ConfigError(f"cannot make a key for {name!r}: {path} has one. Remove its line, or take another "
                                  "name")
            file.write(f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n")
    except OSError as error:
        raise ConfigError(f"cannot write CHURN_API_KEYS={path}: {error.strerror}. Name a file you may write") from None
    return key


@command()
def main(values: Mapping[str, str]) -> int:
    """0; 1 with one line on stderr where no key was made."""
    path = load_settings().api_keys
    if path is None:
        raise ConfigError("cannot make a key: CHURN_API_KEYS is not set. Name a file for the hashes, and start the "
                          "platform with it: CHURN_API_KEYS=api-keys make run")
    key = add_key(path, values.get("NAME", ""))
    print(key)
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
