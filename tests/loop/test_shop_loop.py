"""The whole loop on the sample world, in the order of its story: each test goes on where the one before it ended."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from examples.shop.campaign import read_list
from models.contract import Contract
from tasks.release import rollouts
from tasks.release.package import bento_payload
from tasks.state import read_decision, read_decisions
from tests.loop.conftest import REPO

pytestmark = pytest.mark.service

STORY: dict[str, str] = {}


def test_one_command_runs_the_loop_and_prints_a_curl_that_answers(shop_loop):
    printed = shop_loop.make("run").stdout
    STORY["first"] = printed
    for name in ("rows", "features", "model", "value", "gate", "release", "live", "drift", "seconds", "prefect",
                 "mlflow", "docs", "report", "password"):
        assert f"\n{name} " in printed, f"no line {name!r} in\n{printed}"
    curl = printed.strip().splitlines()[-1]
    assert curl.startswith("curl http://127.0.0.1:24400/v1/customers/")
    answer = json.loads(subprocess.run(curl.split(), capture_output=True, check=True).stdout)
    assert {"customer_id", "churn_probability", "decision", "model_version", "release_id", "features_as_of",
            "request_id"} <= set(answer)
    assert {"action", "why", "expected_value"} <= set(answer["decision"])
    assert answer["features_as_of"].startswith("2025-01-01")


def test_the_experiment_comes_out_the_same_from_its_record_and_an_unknown_one_is_one_line(shop_loop):
    assert re.search(r"^mlflow +http://127.0.0.1:\d+/#/experiments/\d+/runs\?", STORY["first"], re.MULTILINE)
    decision = read_decisions(shop_loop.engine, gate="promotion")[0].decision
    said = shop_loop.make("reproduce", f"RUN={decision.evidence['run_id']}").stdout
    assert said.startswith("the same: ")
    unknown = shop_loop.make("reproduce", "RUN=id", check=False)
    assert unknown.returncode != 0
    assert unknown.stderr.startswith("error: cannot reproduce 'id': MLflow has no run of that id; the newest are ")


def test_the_first_model_is_near_the_planted_truth(shop_loop):
    decision = read_decisions(shop_loop.engine, gate="promotion")[0].decision
    truth = json.loads((shop_loop.home.landing / "truth/truth.json").read_text())
    best = {month["cut"][:10]: month["auc_best"] for month in truth["months"]}[decision.evidence["test_cuts"]]
    assert decision.evidence["candidate_auc"] > best - 0.02


def test_status_says_what_is_live_as_one_object_within_three_seconds(shop_loop):
    begun = time.monotonic()
    status = shop_loop.status()
    assert time.monotonic() - begun < 3
    assert status["champion"]["version"] == "1"
    assert status["champion"]["auc"] > 0.7
    assert status["champion"]["since"]
    assert status["canary"] is None
    assert status["last_runs"]["lifecycle"]["state"].lower() == "completed"
    assert status["alarms"] == []
    assert {"prefect", "mlflow", "api"} <= set(status["urls"])
    told = shop_loop.make("status").stdout
    assert f"champion   version 1 ({status['champion']['release_id']})" in told


def test_batch_scores_agree_with_the_api_for_customers_and_for_their_features(shop_loop):
    scores = pl.read_parquet(next((shop_loop.home.lake / "scores").glob("*.parquet")))
    payload = bento_payload(shop_loop.home, scores["release_id"][0])
    contract = Contract.from_json((payload / "contract.json").read_text(encoding="utf-8"))
    snapshot = pl.read_parquet(shop_loop.home.lake / f"snapshots/{contract.fingerprint}/cut=2025-01-01.parquet")
    features = {row["customer_id"]: row for row in snapshot.iter_rows(named=True)}
    # Some of each decision and reason, wherever they stand in the list.
    sample = pl.concat([rows.sample(min(len(rows), 25), seed=1) for rows in scores.partition_by("why")])
    assert set(sample["why"]) >= {"value", "budget", "holdout", "not_eligible"}
    for row in sample.iter_rows(named=True):
        code, answer = shop_loop.get(f"/v1/customers/{row['customer_id']}/churn")
        assert code == 200
        assert answer["churn_probability"] == pytest.approx(row["churn_probability"], abs=1e-9)
        assert (answer["decision"]["action"], answer["decision"]["why"]) == (row["decision"], row["why"])
        given = {name: features[row["customer_id"]][name] for name in contract.feature_names}
        code, answer = shop_loop.post("/v1/score", {"rows": [given]}, {"x-customer-id": row["customer_id"]})
        assert code == 200
        [prediction] = answer["predictions"]
        assert prediction["churn_probability"] == pytest.approx(row["churn_probability"], abs=1e-9)
        if row["why"] != "not_eligible":  # whose features are given is taken for eligible
            assert (prediction["decision"]["action"], prediction["decision"]["why"]) == (row["decision"], row["why"])


def test_scores_by_hand_give_the_same_bytes_and_the_same_rows_as_a_table(shop_loop):
    path = next((shop_loop.home.lake / "scores").glob("*.parquet"))
    before = path.read_bytes()
    database = f"sqlite:///{shop_loop.home.root.parent}/scores.db"
    shop_loop.make("score")
    path.unlink()
    told = shop_loop.make("score", f"CHURN_SCORES_URL={database}").stdout
    assert path.read_bytes() == before
    scores = pl.read_parquet(path)
    assert f"{scores['within_budget'].sum():,} within the budget" in told
    listed = read_list(database, first=100_000)
    assert list(listed.customers) == scores.filter("within_budget")["customer_id"].to_list()
    (shop_loop.home.root / "scores-tables").unlink()  # this table is of no use to the tests after this one


def test_a_client_system_contacts_whom_the_list_and_the_api_agree_on(shop_loop, tmp_path):
    command = [str(REPO / ".venv/bin/python"), "-m", "examples.shop.campaign", "--scores",
               str(shop_loop.home.lake / "scores"), "--api", "http://127.0.0.1:24400", "--contacts", str(tmp_path),
               "--first", "40", "--at", "2025-01-02T08:00:00"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "40 contacted, 0 left\n"
    scores = pl.read_parquet(next((shop_loop.home.lake / "scores").glob("*.parquet")))
    contacts = pl.read_csv(tmp_path / "contacts-2025-01-01.csv")
    first = scores.filter("within_budget").sort("rank").head(40)
    assert contacts["customer_id"].to_list() == first["customer_id"].to_list()
    again = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert again.stdout == "the list of 2025-01-01 had its campaign before\n"


def test_a_quiet_month_later_only_what_is_new_is_ingested_and_the_champion_is_kept_as_equal(shop_loop):
    before = shop_loop.status()["champion"]["version"]
    first = shop_loop.start("run", "AS_OF=2025-02-01")
    try:
        assert any("lifecycle" in line for line in first.stdout)
        second = shop_loop.make("run", check=False)  # while the first one runs
    finally:
        first.communicate(timeout=300)
    assert first.returncode == 0
    assert second.returncode != 0
    assert "cannot run twice at once" in second.stderr
    decision = read_decisions(shop_loop.engine, gate="promotion")[0].decision
    assert decision.verdict == "keep"
    assert decision.reason.startswith("equal")
    data = read_decisions(shop_loop.engine, gate="data")[0].decision
    assert "re-delivered" in data.reason
    partitions = sorted(path.name for path in (shop_loop.home.lake / "raw/orders").iterdir())
    assert partitions == ["load=2025-01-01.parquet", "load=2025-02-01.parquet"]
    assert pl.read_parquet(shop_loop.home.lake / "raw/orders" / partitions[1]).height < 15_000
    assert shop_loop.status()["champion"]["version"] == before
    drift = read_decisions(shop_loop.engine, gate="drift")[0].decision
    assert drift.verdict in ("nothing", "harmless"), drift.reason


@pytest.fixture
def months(shop_loop):
    """Months without training: what the schedules do."""
    def go(*dates: str) -> None:
        calls = "\n".join(f"as_of = datetime.fromisoformat('{date}'); ingest(as_of); features(as_of); score(as_of); "
                          "monitor(as_of)" for date in dates)
        shop_loop.flow("from datetime import datetime\nfrom flows.ingest import ingest\n"
                       "from flows.features import features\nfrom flows.score import score\n"
                       f"from flows.monitor import monitor\n{calls}")
    return go


def test_planted_data_drift_starts_a_retraining_with_nobody_involved(shop_loop, months):
    """Decision, event, automation, flow run on the worker, its verdict."""
    months("2025-06-01", "2025-07-01")
    flags = [row.decision.verdict for row in read_decisions(shop_loop.engine, gate="drift")]
    assert flags[:2] == ["retrain", "harmless"], [row.decision.reason for row in
                                              read_decisions(shop_loop.engine, gate="drift")][:3]
    asked = read_decisions(shop_loop.engine, gate="drift")[0]
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        runs = shop_loop.prefect("/flow_runs/filter", {"flows": {"name": {"any_": ["retrain"]}}})
        if runs and all(run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") for run in runs):
            break
        time.sleep(2)
    accepted = [run for run in runs if run["parameters"] == {"decision_id": asked.decision_id}]
    assert accepted, runs
    assert accepted[-1]["created_by"]["type"] == "AUTOMATION"
    assert accepted[-1]["state"]["type"] == "COMPLETED", accepted[-1]["state"]
    events = shop_loop.prefect("/events/filter", {"filter": {"event": {"name": ["churn.drift.detected"]}}})["events"]
    assert {event["payload"]["decision_id"] for event in events} == {asked.decision_id}
    verdict = read_decisions(shop_loop.engine, gate="retrain")[-1].decision
    assert verdict.verdict == "accept"
    promotion = read_decisions(shop_loop.engine, gate="promotion")[0]
    assert promotion.as_of.startswith("2025-07-01")
    assert promotion.decision.verdict in ("promote", "keep")


def test_a_retrain_event_that_names_no_decision_of_ours_is_refused(shop_loop):
    shop_loop.flow("from flows.retrain import retrain; print(retrain('forged').verdict)")
    assert read_decisions(shop_loop.engine, gate="retrain")[0].decision.verdict == "refuse"
    assert read_decision(shop_loop.engine, "forged") is None


def ask_many(loop, customers: list[str]) -> list[int]:
    with ThreadPoolExecutor(4) as pool:
        return [code for code, _ in pool.map(lambda one: loop.get(f"/v1/customers/{one}/churn"), customers)]


def advance(loop) -> str:
    return loop.flow("from flows.release import release; d = release(); print(d.verdict, '|', d.reason)").strip()


def wait_for_retraining(loop) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        runs = loop.prefect("/flow_runs/filter", {"flows": {"name": {"any_": ["retrain"]}}})
        if all(run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") for run in runs):
            return
        time.sleep(2)


def finish_open_rollout(loop, customers: list[str]) -> None:
    for _ in range(4):
        if rollouts.open_rollout(loop.engine) is None:
            return
        assert set(ask_many(loop, customers)) == {200}
        advance(loop)


def test_after_the_concept_changed_a_better_candidate_goes_through_a_canary_under_real_requests(shop_loop):
    scores = pl.read_parquet(sorted((shop_loop.home.lake / "scores").glob("*.parquet"))[-1])
    customers = scores["customer_id"].sample(400, seed=3).to_list()
    finish_open_rollout(shop_loop, customers)  # what the retraining may have opened
    before = rollouts.champion(shop_loop.engine).release_id
    shop_loop.flow("from datetime import datetime\nfrom flows.lifecycle import lifecycle\n"
                   "from models.training.fit import TrainingConfig\n"
                   "lifecycle(datetime(2025, 12, 1), TrainingConfig(window='new', not_before=datetime(2025, 8, 1)))")
    promotion = read_decisions(shop_loop.engine, gate="promotion")[0].decision
    assert promotion.verdict == "promote", promotion.reason
    rollout = rollouts.open_rollout(shop_loop.engine)
    assert rollout is not None
    assert (rollout.state, rollout.stage, rollout.champion_id) == ("canary", 0, before)
    silent = advance(shop_loop)
    assert silent.startswith("hold"), "no requests, no evidence, no step"
    assert shop_loop.status()["canary"]["version"] == promotion.evidence["model_version"]
    assert set(ask_many(shop_loop, customers)) == {200}
    answered = {shop_loop.get(f"/v1/customers/{one}/churn")[1]["release_id"] for one in customers[:60]}
    assert answered == {before, rollout.release_id}
    deadline = time.monotonic() + 120
    while rollouts.read_rollout(shop_loop.engine, rollout.rollout_id).state == "canary":
        assert time.monotonic() < deadline
        advance(shop_loop)  # the schedule calls it once a minute too: either may take a step
        assert set(ask_many(shop_loop, customers)) == {200}
    assert rollouts.read_rollout(shop_loop.engine, rollout.rollout_id).state == "champion"
    steps = [row.decision.verdict for row in read_decisions(shop_loop.engine, subject=rollout.release_id)
             if row.decision.gate == "canary"]
    assert steps.count("advance") >= 3  # its first customers, then one a stage
    assert rollouts.champion(shop_loop.engine).release_id == rollout.release_id
    answered = Counter(shop_loop.get(f"/v1/customers/{one}/churn")[1]["release_id"] for one in customers[:40])
    assert before not in answered
    assert answered.most_common(1)[0][0] == rollout.release_id, "the next candidate may have its first customers"


def test_a_version_is_released_by_hand_through_the_same_judge_and_rolled_back_with_a_reason(shop_loop):
    wait_for_retraining(shop_loop)  # the drift of the concept has asked for one as well
    scores = pl.read_parquet(sorted((shop_loop.home.lake / "scores").glob("*.parquet"))[-1])
    finish_open_rollout(shop_loop, scores["customer_id"].sample(400, seed=4).to_list())
    live = rollouts.champion(shop_loop.engine).release_id
    shop_loop.make("release", "VERSION=1", "WHO=ada", "WHY=compare with the first one")
    rollout = rollouts.open_rollout(shop_loop.engine)
    assert (rollout.state, rollout.who, rollout.why) == ("canary", "ada", "compare with the first one")
    refused = shop_loop.make("release", "VERSION=1", "WHO=ada", "WHY=again", check=False)
    assert refused.returncode != 0
    shop_loop.make("rollback", "WHO=ada", "WHY=seen enough")
    assert rollouts.open_rollout(shop_loop.engine) is None
    assert rollouts.champion(shop_loop.engine).release_id == live
    last = rollouts.last_rollout(shop_loop.engine)
    assert (last.state, "seen enough" in last.reason) == ("rolled back", True)


def test_a_shadow_is_paused_goes_on_is_promoted_by_hand_and_the_champion_before_comes_back(shop_loop):
    live = rollouts.champion(shop_loop.engine).release_id
    customers = pl.read_parquet(sorted((shop_loop.home.lake / "scores").glob("*.parquet"))[-1])["customer_id"][:60]
    shop_loop.make("release", "VERSION=1", "WHO=ada", "WHY=look first", "STRATEGY=shadow")
    rollout = rollouts.open_rollout(shop_loop.engine)
    assert (rollout.state, rollout.strategy) == ("shadow", "shadow")
    shop_loop.make("pause", "WHO=ada", "WHY=on holiday")
    answered = {shop_loop.get(f"/v1/customers/{one}/churn")[1]["release_id"] for one in customers}
    assert answered == {live}, "clients see the champion alone"
    assert "on holiday" in advance(shop_loop)
    assert rollouts.open_rollout(shop_loop.engine).paused_by == "ada"
    shop_loop.make("resume", "WHO=ada", "WHY=back")
    assert rollouts.open_rollout(shop_loop.engine).paused_at is None
    shop_loop.make("promote", "WHO=ada", "WHY=seen enough")
    assert rollouts.champion(shop_loop.engine).release_id == rollout.release_id != live
    assert shop_loop.get(f"/v1/customers/{customers[0]}/churn")[1]["release_id"] == rollout.release_id
    shop_loop.make("rollback", "WHO=ada", "WHY=seen enough")
    assert rollouts.champion(shop_loop.engine).release_id == live
    assert shop_loop.get(f"/v1/customers/{customers[0]}/churn")[1]["release_id"] == live
    shop_loop.make("keep", "WHO=ada", "WHY=seen enough")
    assert rollouts.champion(shop_loop.engine).state == "baked"


def test_why_tells_the_verdicts_behind_what_is_live(shop_loop):
    told = shop_loop.make("why").stdout
    assert rollouts.champion(shop_loop.engine).release_id in told
    assert "promotion: promote (data scientist)" in told
    assert "canary: advance (ML engineer)" in told
    for stage in ("design", "development", "deployment"):
        assert f"go: go (stakeholder): {stage}: " in told


def test_the_model_card_of_what_is_live_tells_how_its_deployment_ended(shop_loop):
    told = shop_loop.make("card").stdout
    page, text = (Path(path).read_text(encoding="utf-8") for path in re.findall(r"file://(\S+)", told))
    champion = rollouts.champion(shop_loop.engine).release_id
    version = re.match(r"churn:v(\d+)-", champion)[1]
    assert text.startswith(f"# Model card: shop, version {version}\n")
    assert f"deployment: {champion} is champion" in page
    assert f"deployment: {champion} is champion" in text


def test_the_study_answers_on_the_history_of_the_running_platform(shop_loop):
    verdict, report = shop_loop.make("study").stdout.splitlines()[-2:]
    assert verdict.startswith(("every ", "seldom: "))
    assert Path(report.split("file://")[1]).is_file()


def test_a_version_that_does_not_exist_is_refused_with_the_known_ones(shop_loop):
    refused = shop_loop.make("release", "VERSION=99", "WHO=ada", "WHY=typo", check=False)
    assert refused.returncode != 0
    assert "99" in refused.stderr
    assert refused.stderr.startswith("error: cannot release version 99")


def test_the_quarantine_is_shown_and_what_is_still_bad_stays_in_it(shop_loop):
    shown = shop_loop.make("quarantine").stdout
    rows = int(shown.split()[0].replace(",", ""))
    assert "orders  amount is not between 0 and 1,000,000  (accuracy; 20" in shown
    told = shop_loop.make("redrive").stdout
    assert " = 0 passed + " in told
    assert int(shop_loop.make("quarantine").stdout.split()[0].replace(",", "")) == rows > 500


def test_a_range_of_days_is_backfilled_beside_the_running_platform(shop_loop):
    told = shop_loop.make("backfill", "START=2025-03-01", "END=2025-05-01", "STEP_MONTHS=1").stdout
    assert [line[:10] for line in told.splitlines()] == ["2025-03-01", "2025-04-01", "2025-05-01"]
    assert told.count("snapshot: taken") + told.count("snapshot: already there") == 3


def test_two_canaries_under_generated_traffic_one_wins_one_that_hangs_goes_back_and_no_request_fails(shop_loop):
    told = shop_loop.make("rollout-demo", seconds=540).stdout
    assert re.search(r"^requests  [\d,]+ answered, 0 failed$", told, re.MULTILINE), told
    ends = re.findall(r"^(champion|rolled back) +(\S+)  file://(\S+)$", told, re.MULTILINE)
    assert [end for end, _, _ in ends] == ["champion", "rolled back"]
    assert rollouts.champion(shop_loop.engine).release_id == ends[0][1] != ends[1][1]
    assert all(Path(drawn).read_bytes().startswith(b"\x89PNG") for _, _, drawn in ends)
    assert len(re.findall(r" s  canary \d+% +\d+ +\d+ ", told)) >= 4, told  # every look of the judge is a line


def test_a_person_is_forgotten_while_the_platform_serves_the_others(shop_loop):
    person = "c000123"
    assert shop_loop.get(f"/v1/customers/{person}/churn")[0] == 200
    would = shop_loop.make("forget", f"CUSTOMER={person}").stdout
    assert "nothing was changed" in would
    shop_loop.make("forget", f"CUSTOMER={person}", "WHO=ada", "WHY=asked for it", "YES=1")
    assert "nothing of them is left" in shop_loop.make("forget", f"CUSTOMER={person}").stdout
    assert shop_loop.get(f"/v1/customers/{person}/churn")[0] == 404
    scores = pl.read_parquet(sorted((shop_loop.home.lake / "scores").glob("*.parquet"))[-1])
    other = scores["customer_id"][0]
    assert shop_loop.get(f"/v1/customers/{other}/churn")[0] == 200
    assert person not in scores["customer_id"]


def test_retention_says_what_could_go_and_that_raw_rows_stay(shop_loop):
    told = shop_loop.make("retention").stdout
    assert told.startswith("as of 2025-")
    assert "raw rows stay" in told


def test_cron_deployments_have_scheduled_runs(shop_loop):
    for flow in ("ingest", "score", "monitor"):
        runs = shop_loop.prefect("/flow_runs/filter", {
            "flows": {"name": {"any_": [flow]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
        assert runs, f"no run of {flow} is scheduled"


def test_dollar_home_stays_untouched(shop_loop):
    from pathlib import Path

    assert [str(path) for path in Path(shop_loop.environment["HOME"]).rglob("*")] == []


def test_down_stops_everything_within_fifteen_seconds_and_run_brings_the_champion_back(shop_loop):
    import psutil

    live = rollouts.champion(shop_loop.engine).release_id
    begun = time.monotonic()
    shop_loop.make("down")
    assert time.monotonic() - begun < 15
    home = str(shop_loop.home.root)
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline", "environ"])
            if any(home in part for part in [*(process.info["cmdline"] or []),
                                             *(process.info["environ"] or {}).values()])]
    assert left == []
    assert "PREFECT_API_URL" not in (shop_loop.home.root.parent / ".env").read_text()
    assert rollouts.champion(shop_loop.engine).release_id == live
