"""The demo beside the user's platform; the demo itself is run in tests/loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.demo_place import LIMITS, beside
from deploy.local.rollout_demo import header, look_line, main, report
from deploy.local.traffic import Tally
from flows.settings import Settings, load_place
from models.decision import Decision
from models.errors import PlatformError
from tasks.home import Home


def test_home_ports_charter_and_env_file_are_the_demos_own(tmp_path: Path):
    given = Settings(home=tmp_path)
    demo = beside(given, name="rollout-demo", ports=60, charter={"rollout": LIMITS})
    assert demo.home == tmp_path / "rollout-demo"
    for name in ("api_port", "prefect_port", "mlflow_port", "release_port"):
        assert abs(getattr(demo, name) - getattr(given, name)) > 20
    assert {demo.home} < {demo.env_file.parent, demo.charter.parent, tmp_path}
    charter, home = load_place(demo)
    assert (home.root, charter.rollout.time_limit_minutes) == (demo.home, 5)


def test_a_look_is_one_line_with_customers_and_e_values_and_its_reason_once_it_decides():
    seen = {"share": 0.3, "canary_customers": 31, "champion_customers": 212, "failed_e_value": 0.25,
            "slow_e_value": 1.0, "e_limit": 100.0}
    hold = Decision("canary", "hold", "31 canary customers, 60 needed", seen)
    assert look_line(hold).split() == ["canary", "30%", "31", "212", "0.25", "1", "hold"]
    limit, names = header(hold).splitlines()
    assert limit.split() == ["e-values,", "limit", "100"]
    for word in ("failed", "slow"):  # each name ends where its number does
        assert look_line(hold)[names.index(word) - 11:names.index(word) + len(word) - 10].strip() in ("0.25", "1")
    assert look_line(Decision("canary", "roll back", "because", seen)).splitlines()[1].strip() == "because"
    assert look_line(Decision("smoke", "pass", "20 golden rows")) == "smoke: pass: 20 golden rows"


def test_a_failed_request_is_an_error_and_not_only_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report(Tally(answered=10), Home(tmp_path), ())
    with pytest.raises(PlatformError, match=r"1 of 11 requests failed, first: status 503"):
        report(Tally(answered=10, failed=1, first_failure="status 503"), Home(tmp_path), ())
    assert "10 answered, 1 failed" in capsys.readouterr().out


def test_a_home_whose_platform_does_not_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("ROLLOUT_DEMO_HOME", str(tmp_path))
    assert main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot show a rollout on {tmp_path}: its platform does not run")
    assert said.count("\n") == 1
