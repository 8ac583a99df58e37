"""deploy/prometheus and deploy/grafana against a real Prometheus that scrapes real releases, Envoy and the exporter."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from models.team import DEFAULT_TEAM
from tests.metrics_world import REPO, MetricsWorld, Prometheus, metrics_world, prometheus, wait
from tests.prometheus_tools import prometheus_folder

DEPLOY = REPO / "deploy"
RULES = [rule for group in yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]
         for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
DASHBOARD = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
DRAWN = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]


def metric_names(expression: str) -> set[str]:
    """What an expression reads, by name; `churn:...` are recorded by rules."""
    bare = re.sub(r"\{[^}]*\}", "", re.sub(r'"[^"]*"', '""', expression))  # no selectors
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", "", bare)  # no lists of labels
    return set(re.findall(r"\b(?:churn|envoy)[_:][\w:]+|\bup\b", bare))


NAMES = sorted(set().union(*(metric_names(rule["expr"]) for rule in RULES),
                           *(metric_names(expression) for _, expression in DRAWN)))


@pytest.fixture(scope="session")
def tools() -> Path:
    return prometheus_folder()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MetricsWorld]:
    with metrics_world(tmp_path_factory.mktemp("metrics")) as one:
        yield one


@pytest.fixture(scope="module")
def server(world: MetricsWorld, tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus(tools, tmp_path_factory.mktemp("prometheus") / "server") as one:
        world.traffic()
        wait(lambda: len(one.query('churn_requests_total{route="/v1/score"}')) >= 1, what="no request was scraped")
        world.traffic()
        wait(lambda: bool(one.query("churn:latency_p95_seconds:5m")), what="no rule was evaluated")
        yield one


def test_each_alarm_has_an_owner_of_the_team_a_severity_and_a_runbook_section_that_exists() -> None:
    page = (REPO / "docs/alarms.md").read_text()
    sections = {line.removeprefix("### ").strip().lower() for line in page.splitlines() if line.startswith("### ")}
    for rule in ALERTS:
        # The owner of these two is a label of the metric: the role the charter names.
        owner = rule["labels"].get("owner")
        assert owner in DEFAULT_TEAM or (owner is None and rule["alert"] in ("PartSilent", "OpenAlarm")), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        file, _, section = rule["annotations"]["runbook"].partition("#")
        assert file == "docs/alarms.md"
        assert section == rule["alert"].lower()
        assert section in sections, f"docs/alarms.md has no section {rule['alert']}"


def test_a_metric_that_nobody_tells_any_more_is_an_alarm_for_every_metric_a_rule_reads() -> None:
    recorded = {rule["record"]: metric_names(rule["expr"]) for rule in RULES if "record" in rule}
    missed = set().union(*(metric_names(rule["expr"]) for rule in ALERTS if rule["alert"] in (
        "MetricMissing", "ReleaseMetricMissing")))
    read = set().union(*(metric_names(rule["expr"]) for rule in ALERTS))
    for name in sorted(read & recorded.keys()):
        read = read - {name} | recorded[name]
    by_themselves = {"up", "churn_release_role"}  # ExporterDown and NoChampion fire where these are not told
    assert read - missed == by_themselves


def test_the_dashboard_is_one_grafana_can_place() -> None:
    """Grafana is not here: what its schema asks of a dashboard and its panels is checked, not how it looks."""
    assert DASHBOARD["uid"]
    assert DASHBOARD["schemaVersion"] >= 36
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["title"]
        assert panel["type"] in ("timeseries", "stat", "table")
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.service
@pytest.mark.parametrize("command", [
    "check config prometheus.yml", "check rules rules.yml", "test rules rules_test.yml"])
def test_promtool_takes_config_rules_and_their_own_tests(tools: Path, command: str) -> None:
    said = subprocess.run([str(tools / "promtool"), *command.split()], cwd=DEPLOY / "prometheus", capture_output=True,
                          text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.service
@pytest.mark.parametrize("name", NAMES)
def test_every_metric_that_is_named_exists(server: Prometheus, name: str) -> None:
    wait(lambda: bool(server.query(name)), seconds=20, what=f"nobody tells {name}")


@pytest.mark.service
@pytest.mark.parametrize(("title", "expression"), DRAWN, ids=[f"{title}-{n}" for n, (title, _) in enumerate(DRAWN)])
def test_every_query_of_the_dashboard_draws_something(server: Prometheus, title: str, expression: str) -> None:
    wait(lambda: bool(server.query(expression)), seconds=20, what=f"{title}: {expression} draws nothing")


@pytest.mark.service
def test_champion_and_canary_are_found_and_tell_nothing_but_their_own(server: Prometheus) -> None:
    assert {(one["metric"]["release"], one["value"][1]) for one in server.query('up{job="releases"}')} == {
        ("churn:1", "1"), ("churn:2", "1")}
    assert server.query('{__name__=~"feast.*"}') == []
    wait(lambda: {one["metric"]["release"] for one in server.query("sum by (release) (churn_requests_total)")} == {
        "churn:1", "churn:2"}, what="one of them tells no request")


@pytest.mark.service
def test_what_the_ledger_and_the_last_check_say_fires_in_the_name_of_the_owner(server: Prometheus) -> None:
    def fired() -> set[tuple[str, str]]:
        return {(one["alertname"], one.get("owner", "")) for one in server.firing()}

    wait(lambda: {("OpenAlarm", "data scientist"), ("PartSilent", "data engineer"), ("SignalBad", "data scientist")}
         <= fired(), what="the planted alarms did not fire")
    assert not {name for name, _ in fired()} & {"ReleaseDown", "ExporterDown", "MetricMissing", "SourceUnreadable",
                                                "ProgramDown", "NoChampion", "ReleaseMetricMissing"}


@pytest.mark.service
def test_a_scrape_costs_less_than_a_tenth_of_a_cpu_second(world: MetricsWorld) -> None:
    found = [float(re.search(r"^churn_exporter_scrape_cpu_seconds (\S+)$", world.metrics(), re.MULTILINE).group(1))
             for _ in range(5)]
    assert min(found) < 0.1


@pytest.mark.service
def test_an_alarm_fires_when_a_release_dies_and_when_the_exporter_does(server: Prometheus, world: MetricsWorld) -> None:
    from tasks.release.processes import stop_program

    world.releases["churn:2"].process.kill()
    wait(lambda: any(one["alertname"] == "ReleaseDown" and one["release"] == "churn:2" for one in server.firing()),
         what="ReleaseDown does not fire")
    assert not any(one["alertname"] == "ReleaseDown" and one["release"] == "churn:1" for one in server.firing())
    stop_program(world.home, "envoy")
    wait(lambda: any(one["alertname"] == "SourceUnreadable" and one["source"] == "router" for one in server.firing()),
         what="SourceUnreadable does not fire")
    stop_program(world.home, "exporter")
    wait(lambda: {"ExporterDown", "MetricMissing"} <= {one["alertname"] for one in server.firing()},
         what="ExporterDown does not fire")
