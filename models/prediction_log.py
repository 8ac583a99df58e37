"""The prediction log: one line of JSON a row, one `write(2)` a line, so a killed process tears none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson


class PredictionLog:
    """Appends to one file that only its owner may read: it names the entities, for truth to join later.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._torn = False

    def append(self, record: dict[str, Any]) -> bool:
        """Write one record; False when it could not be written whole, which must not cost the caller the answer."""
        try:
            line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
            if self._torn:  # a full disk cut the last line short: do not let it swallow this one
                line = b"\n" + line
            written = os.write(self._file, line)
        except (OSError, TypeError):
            return False
        self._torn = written < len(line)
        return not self._torn
