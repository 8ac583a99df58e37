"""The real local platform: what it promises to its user, and what it refuses to others."""

from __future__ import annotations

import os
import signal
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from deploy.local.ask import PrefectApi, answers
from deploy.local.env_file import clear_env, write_env
from deploy.local.memory import memory_by_program, table
from deploy.local.parts import api_url, auth_file, mlflow_url, prefect_api, prefect_url
from deploy.local.platform import PARTS, platform_urls, start_platform, stop_platform, wait_ready
from deploy.local.run import only_run
from deploy.local.status import main as status_main
from deploy.local.status import read_status, text
from flows.settings import Settings, load_place
from models.errors import PlatformError
from tasks.home import Home
from tasks.release.processes import owned_pids, programs, start_program, start_supervisor, stop_supervisor
from tests.waiting import wait_for


def api_of(platform: object) -> PrefectApi:
    return prefect_api(platform.settings, platform.home)  # type: ignore[attr-defined]  # fixture's own class


@pytest.mark.service
def test_every_part_runs_and_answers(platform) -> None:
    assert {name: programs(platform.home)[name].state for name in PARTS} == dict.fromkeys(PARTS, "RUNNING")
    assert answers(f"{mlflow_url(platform.settings)}/health")
    assert answers(f"{api_url(platform.settings)}/docs")
    assert set(platform_urls(platform.settings)) == {"prefect", "mlflow", "api"}


@pytest.mark.service
def test_a_post_from_a_foreign_page_is_refused_by_the_prefect_api(platform) -> None:
    url = f"{prefect_url(platform.settings)}/api/flows/filter"
    for headers in ({}, {"Authorization": "Basic Y2h1cm46Z3Vlc3M="}):
        request = urllib.request.Request(url, data=b"{}", headers={
            "Origin": "http://evil.example", "Content-Type": "text/plain", **headers})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == 401
    for origin, allowed in (("http://evil.example", None), (prefect_url(platform.settings),) * 2):
        preflight = urllib.request.Request(url, method="OPTIONS", headers={
            "Origin": origin, "Access-Control-Request-Method": "POST"})
        try:
            answer = urllib.request.urlopen(preflight, timeout=10).headers
        except urllib.error.HTTPError as error:
            answer = error.headers
        assert answer.get("Access-Control-Allow-Origin") == allowed


@pytest.mark.service
def test_every_deployment_of_prefect_yaml_is_there_and_starts_in_the_repo(platform) -> None:
    from yaml import safe_load

    from flows.settings import REPO

    wanted = {entry["name"] for entry in safe_load((REPO / "prefect.yaml").read_text())["deployments"]}
    found = {entry["name"]: entry["pull_steps"] for entry in api_of(platform).ask("/deployments/filter", {})}
    assert set(found) == wanted
    for steps in found.values():
        assert steps == [{"prefect.deployments.steps.set_working_directory": {"directory": str(REPO)}}]


@pytest.mark.service
def test_secrets_are_readable_by_their_owner_only(platform) -> None:
    for path in (auth_file(platform.home), platform.home.run / "customer-key", platform.settings.env_file,
                 *(platform.home.run / "programs").iterdir(), *(platform.home.run / "logs").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.service
def test_a_shell_in_the_repo_finds_the_platform_by_the_env_file_and_flows_by_the_environment(platform) -> None:
    written = platform.settings.env_file.read_text()
    api = api_of(platform)
    for name, value in (("PREFECT_API_URL", api.url), ("PREFECT_API_AUTH_STRING", api.auth_string),
                        ("PREFECT_HOME", str(platform.home.prefect))):
        assert f"{name}='{value}'" in written
        assert os.environ[name] == value
    assert os.environ["CHURN_HOME"] == str(platform.home.root)


@pytest.mark.service
def test_a_second_start_changes_nothing_and_is_quick(platform) -> None:
    before = {name: info.pid for name, info in programs(platform.home).items()}
    begin = time.monotonic()
    start_platform(platform.settings, platform.charter, platform.home)
    assert time.monotonic() - begin < 5
    assert {name: info.pid for name, info in programs(platform.home).items()} == before


@pytest.mark.service
def test_status_answers_within_three_seconds_and_shows_a_stopped_server_as_an_alarm(platform) -> None:
    begin = time.monotonic()
    status = read_status(platform.settings, platform.charter, platform.home)
    assert time.monotonic() - begin < 3
    assert list(status) == ["maturity", "waits", "champion", "canary", "rollout", "bake", "last_runs", "alarms", "urls"]
    assert status["alarms"] == []
    assert status["last_runs"] is not None
    assert status["champion"] is None
    pid = programs(platform.home)["prefect-server"].pid
    assert pid
    os.kill(pid, signal.SIGSTOP)  # hangs: worse than dead, since it still takes connections
    try:
        begin = time.monotonic()
        status = read_status(platform.settings, platform.charter, platform.home)
        assert time.monotonic() - begin < 3
    finally:
        os.kill(pid, signal.SIGCONT)
    assert status["last_runs"] is None
    assert any("prefect-server does not answer" in alarm for alarm in status["alarms"])
    assert all("(owner: ML engineer)" in alarm for alarm in status["alarms"] if "does not answer" in alarm)
    assert "last runs  not known" in text(status, checks=[])


@pytest.mark.service
def test_a_killed_part_comes_back_and_answers(platform) -> None:
    pid = programs(platform.home)["envoy"].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: programs(platform.home)["envoy"].pid not in (pid, None))
    wait_ready(platform.home, {"envoy": lambda: answers(api_url(platform.settings))}, seconds=20)


@pytest.mark.service
def test_the_idle_platform_stays_within_its_memory(platform) -> None:
    found = memory_by_program(platform.home)
    assert set(PARTS) | {"supervisord"} <= set(found)
    assert table(found).endswith("ok")
    assert 300 < sum(mib for _count, mib in found.values()) < 1200  # a release adds about 320


@pytest.mark.service
def test_nothing_is_written_into_the_home_folder_of_the_user(platform) -> None:
    assert [path for path in platform.dollar_home.rglob("*") if path.is_file()] == []


@pytest.mark.service
def test_stop_ends_every_process_quickly_and_keeps_data_and_secret(platform) -> None:  # the last one
    secret = auth_file(platform.home).read_text()
    pids = owned_pids(platform.home)
    assert len(pids) >= 5
    begin = time.monotonic()
    stop_platform(platform.settings, platform.home)
    assert time.monotonic() - begin < 15
    ended = time.monotonic() + 3  # one that ends loses the environment it is known by a moment before it is gone
    while any(_alive(pid) for pid in pids) and time.monotonic() < ended:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)
    assert secret.strip() not in platform.settings.env_file.read_text()
    assert "PREFECT_API_URL" not in platform.settings.env_file.read_text()
    assert (platform.home.prefect / "prefect.db").exists()
    assert auth_file(platform.home).read_text() == secret


def _alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_status_without_a_home_is_one_line_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "nowhere"))
    assert status_main([]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "make run" in said.err
    assert not (tmp_path / "nowhere").exists()


def test_status_of_a_stopped_platform_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_place(Settings(home=tmp_path))
    monkeypatch.setenv("CHURN_HOME", str(tmp_path))
    assert status_main(["--json"]) == 1
    assert "does not run. Start it with `make run`" in capsys.readouterr().err


def test_the_env_file_keeps_foreign_lines_and_loses_only_ours(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("MINE=1\n")
    path.chmod(0o644)
    write_env(path, {"PREFECT_API_URL": "http://x/api", "PREFECT_API_AUTH_STRING": "churn:it's", "PREFECT_HOME": "/p"})
    write_env(path, {"PREFECT_API_URL": "http://y/api", "PREFECT_API_AUTH_STRING": "churn:it's", "PREFECT_HOME": "/p"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("MINE=1\n")
    assert path.read_text().count("PREFECT_API_URL") == 1
    from dotenv import dotenv_values  # what Prefect reads it with

    assert dotenv_values(path)["PREFECT_API_AUTH_STRING"] == "churn:it's"
    clear_env(path, auth_string="another platform's")
    assert "http://y/api" in path.read_text()
    clear_env(path, auth_string="churn:it's")
    assert dotenv_values(path) == {"MINE": "1", "PREFECT_HOME": "/p"}


def test_a_second_run_at_the_same_time_is_told_who_is_first(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with only_run(home), pytest.raises(PlatformError, match=f"process {os.getpid()} is a `make run`"), only_run(home):
        pass
    with only_run(home):
        pass


@pytest.mark.service
def test_a_part_that_keeps_failing_is_named_with_its_log_and_last_line(tmp_path: Path) -> None:
    home = Home(tmp_path)
    start_supervisor(home)
    try:
        start_program(home, "broken", ["/bin/sh", "-c", "echo 'ValueError: no such thing'; echo bye; exit 3"],
                      environment={}, directory=tmp_path)
        with pytest.raises(PlatformError, match=r"cannot start broken: .*ValueError: no such thing .*broken\.log"):
            wait_ready(home, {"broken": lambda: False}, seconds=3)
    finally:
        stop_supervisor(home)
