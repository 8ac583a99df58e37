"""What is imported while the servers start."""

from __future__ import annotations

import subprocess
import sys

from flows.settings import REPO


def test_imports_behind_the_first_lines_print_nothing_between_them() -> None:
    """Feast turns deprecation warnings on, and Evidently, imported after it, had three of them on the terminal."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom deploy.local.run import HEAVY, warming_up\n"
         "with warming_up() as warm_up:\n    warm_up()\nassert set(HEAVY) <= set(sys.modules)"],
        cwd=REPO, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
