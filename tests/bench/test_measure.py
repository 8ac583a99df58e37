"""The usage line of `tests.bench.measure` works on an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.tasks.conftest import REPO


@pytest.mark.service
def test_a_measurement_called_by_hand_fills_its_world_first(tmp_path):
    done = subprocess.run([sys.executable, "-m", "tests.bench.measure", "stage_training_set", "feast", "ours", "500",
                           str(tmp_path)], cwd=REPO, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["cpu"] > 0
