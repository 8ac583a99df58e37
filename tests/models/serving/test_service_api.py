"""The API over a real payload and a real Feast store, in the process."""

import asyncio
import hashlib
import hmac
import json
import os
import sqlite3
import stat
import time
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from feature_repo.contract import CONTRACT
from models.errors import DataError, ReleaseError
from models.serving.api import build_app
from models.serving.api_keys import ApiKeys
from models.serving.features_online import open_online
from models.serving.payload import load_payload
from models.serving.platform_clock import PlatformClock
from models.serving.prediction_log import PredictionLog
from models.serving.request_model import names_twice, rows_adapter
from models.serving.runtime import build_runtime
from tests.release_payload import AS_OF, KEY, VIEW, tiny_contract, write_payload, write_store

GOOD = {"visits": 1, "spend": 12.5, "tier": "gold"}
SECRET = "confidential-77"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    registry, online = write_store(folder / "feast")
    payload = load_payload(write_payload(folder / "release"))
    read_online = open_online(registry, online, payload.contract, view=VIEW,
                              service_name=payload.manifest["feature_service"])
    return payload, read_online, online


class Served:
    """A client of one running app, with the files it writes."""

    def __init__(self, place, folder):
        payload, read_online, self.online = place
        self.clock_file = folder / "clock"
        self.clock_file.write_text(AS_OF.isoformat())
        self.log_file = folder / "predictions.jsonl"
        self.release = f"churn:{folder.name}"  # its own series, whatever mode prometheus_client is in
        self.app = build_app()
        self.app.state.runtime = build_runtime(
            payload, release_id=self.release, log=PredictionLog(self.log_file), customer_key=KEY,
            clock=PlatformClock(self.clock_file), read_online=read_online,
        )

    def get(self, path, **options):
        return asyncio.run(self._ask("GET", path, **options))

    def post(self, path, **options):
        return asyncio.run(self._ask("POST", path, **options))

    async def _ask(self, method, path, **options):
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, **options)

    def change(self, **parts):
        self.app.state.runtime = replace(self.app.state.runtime, **parts)

    def logged(self):
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def count(self, series):
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(series)]
        return float(lines[0].rsplit(" ", 1)[1]) if lines else None


@pytest.fixture
def served(place, tmp_path):
    return Served(place, tmp_path)


def fields_of(answer):
    return [(fault["row"], fault["field"]) for fault in answer.json()["fields"]]


def test_a_known_customer_is_answered_with_every_field_of_the_design(served):
    answer = served.get("/v1/customers/m1/churn", headers={"X-Request-Id": "r-1"})
    body = answer.json()
    assert answer.status_code == 200
    assert list(body) == ["customer_id", "churn_probability", "decision", "model_version", "release_id", "request_id",
                          "features_as_of"]
    probability = body["churn_probability"]
    assert body["decision"] == {"action": "contact", "why": "value",
                                "expected_value": pytest.approx(probability * 30 - 4, abs=1e-4)}
    assert (body["customer_id"], body["model_version"], body["release_id"], body["request_id"]) == (
        "m1", "3", served.release, "r-1")
    assert body["features_as_of"] == "2025-01-01T00:00:00Z"


def test_the_online_store_and_the_caller_give_the_same_score_for_the_same_features(served):
    by_store = served.get("/v1/customers/m1/churn").json()["churn_probability"]
    by_caller = served.post("/v1/score", json={"rows": [GOOD]}).json()["predictions"][0]["churn_probability"]
    assert by_store == by_caller


def test_the_customer_header_is_the_keyed_hash_and_not_the_customer(served):
    answer = served.get("/v1/customers/m1/churn")
    expected = hmac.new(KEY, b"m1", hashlib.sha256).hexdigest()[:32]
    assert answer.headers["x-churn-customer"] == expected
    assert "x-churn-customer" not in served.post("/v1/score", json={"rows": [GOOD]}).headers
    named = served.post("/v1/score", json={"rows": [GOOD]}, headers={"X-Customer-Id": "m1"})
    assert named.headers["x-churn-customer"] == expected


def test_a_customer_who_is_not_eligible_is_left(served):
    body = served.get("/v1/customers/gone/churn").json()
    assert (body["decision"]["action"], body["decision"]["why"]) == ("leave", "not_eligible")


def test_an_unknown_customer_is_404_and_not_a_score_of_nothing(served):
    answer = served.get("/v1/customers/nobody/churn")
    assert (answer.status_code, set(answer.json())) == (404, {"error", "request_id"})
    assert served.logged() == []


@pytest.mark.parametrize("days", [35, 36])
def test_features_older_than_the_charter_allows_are_answered_as_degraded_and_counted(served, days):
    served.clock_file.write_text((AS_OF + timedelta(days=days)).date().isoformat())
    body = served.get("/v1/customers/m1/churn").json()
    stale = days > 35
    assert body.get("degraded") == (["stale_features"] if stale else None)
    assert served.logged()[0]["degraded"] == (["stale_features"] if stale else [])
    series = f'churn_degraded_total{{reason="stale_features",release="{served.release}"}}'
    assert served.count(series) == (1 if stale else None)


@pytest.mark.parametrize("content", [None, "", "someday", "2024-12-31"],
                         ids=["missing", "empty", "no date", "before the features"])
def test_a_clock_that_cannot_vouch_for_the_age_degrades_the_answer(served, content):
    if content is None:
        served.clock_file.unlink()
    else:
        served.clock_file.write_text(content)
    assert served.get("/v1/customers/m1/churn").json()["degraded"] == ["clock"]


def test_a_clock_file_that_says_wall_means_wall_time(served):
    served.clock_file.write_text("wall")
    assert served.get("/v1/customers/m1/churn").json()["degraded"] == ["stale_features"]


def test_reasons_come_on_request_strongest_first_and_in_words(served):
    body = served.get("/v1/customers/m1/churn?explain=true").json()
    assert body["reasons"][0]["feature"] == "visits"
    assert body["reasons"][0]["text"] == "visits in 30 days: 1"
    assert body["reasons"][0]["log_odds"] > abs(body["reasons"][1]["log_odds"])  # few visits mean churn
    assert "reasons" not in served.get("/v1/customers/m1/churn?explain=false").json()
    first, second = served.post("/v1/score?explain=true", json={"rows": [GOOD, {**GOOD, "visits": 9}]}).json()[
        "predictions"]
    assert first["reasons"] == body["reasons"]
    assert (second["reasons"][0]["feature"], second["reasons"][0]["log_odds"] < 0) == ("visits", True)


def test_reasons_are_refused_for_many_rows_and_for_any_other_word_than_true_or_false(served):
    answer = served.post("/v1/score?explain=true", json={"rows": [GOOD] * 101})
    assert (answer.status_code, fields_of(answer)) == (422, [(None, "explain")])
    assert served.get("/v1/customers/m1/churn?explain=maybe").status_code == 422
    assert served.logged() == []


def test_a_charter_without_explanations_promises_none(served, tmp_path):
    served.change(payload=load_payload(write_payload(tmp_path / "silent", explanations=0)))
    answer = served.get("/v1/customers/m1/churn?explain=true")
    assert (answer.status_code, fields_of(answer)) == (422, [(None, "explain")])
    assert served.post("/v1/score?explain=true", json={"rows": [GOOD]}).status_code == 422


def test_a_locked_feature_store_is_503_with_retry_after_and_post_goes_on(served):
    holder = sqlite3.connect(served.online, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        started = time.monotonic()
        answer = served.get("/v1/customers/m1/churn")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert time.monotonic() - started < 3  # SQLite itself would wait for five seconds
        assert served.post("/v1/score", json={"rows": [GOOD]}).status_code == 200
    finally:
        holder.execute("ROLLBACK")
        holder.close()


@pytest.mark.parametrize(("body", "expected"), [
    ('{"rows": [{"visits": 1, "spend": NaN, "tier": "gold"}]}', (0, "spend")),
    ('{"rows": [{"visits": 1, "spend": -Infinity, "tier": "gold"}]}', (0, "spend")),
    ('{"rows": [{"visits": 1, "spend": 1e400, "tier": "gold"}]}', (0, "spend")),
    ('{"rows": [{"visits": 1, "spend": "1.5", "tier": "gold"}]}', (0, "spend")),
    ('{"rows": [{"visits": 1, "spend": true, "tier": "gold"}]}', (0, "spend")),
    ('{"rows": [{"visits": 1.5, "spend": 1, "tier": "gold"}]}', (0, "visits")),
    ('{"rows": [{"visits": 1e30, "spend": 1, "tier": "gold"}]}', (0, "visits")),
    ('{"rows": [{"visits": 99999999999999999999, "spend": 1, "tier": "gold"}]}', (0, "visits")),
    ('{"rows": [{"visits": -1, "spend": 1, "tier": "gold"}]}', (0, "visits")),
    ('{"rows": [{"visits": null, "spend": 1, "tier": "gold"}]}', (0, "visits")),
    ('{"rows": [{"visits": 1, "spend": 1, "tier": "' + SECRET + '"}]}', (0, "tier")),
    ('{"rows": [{"visits": 1, "spend": 1, "tier": 5}]}', (0, "tier")),
    ('{"rows": [{"visits": 1, "tier": "gold"}]}', (0, "spend")),
    ('{"rows": [{"visits": 1, "spend": 1, "tier": "gold", "extra": 1}]}', (0, "extra")),
    ('{"rows": [' + json.dumps(GOOD) + ', 5]}', (1, "rows")),
    ('{"rows": [' + json.dumps(GOOD) + '], "more": 1}', (None, "more")),
    ('{"rows": []}', (None, "rows")),
    ("{}", (None, "rows")),
    ("[]", (None, None)),
    ("", (None, None)),
    ("{", (None, None)),
    ("\x00", (None, None)),
])
def test_a_bad_body_is_422_naming_row_and_field(served, body, expected):
    answer = served.post("/v1/score", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert expected in fields_of(answer)
    assert SECRET not in answer.text
    assert served.logged() == []


def test_bad_utf8_and_a_thousand_brackets_are_422(served):
    for body in (b'{"rows": [{"tier": "\xff"}]}', b"[" * 100_000):
        assert served.post("/v1/score", content=body,
                           headers={"content-type": "application/json"}).status_code == 422


@pytest.mark.parametrize("row", [
    '{"visits": 1, "visits": 2, "spend": 1, "tier": "gold"}',
    '{"visits": 1, "vis\\u0069ts": 2, "spend": 1, "tier": "gold"}',
])
def test_a_field_named_twice_is_422_and_not_the_last_one(served, row):
    answer = served.post("/v1/score", content=f'{{"rows": [{row}]}}', headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["fields"][0]["problem"]) == (422, "a row names a field twice")
    twice = served.post("/v1/score", content=f'{{"rows": [], "rows": [{json.dumps(GOOD)}]}}',
                        headers={"content-type": "application/json"})
    assert twice.status_code == 422


def test_a_colon_in_a_word_is_no_second_field():
    contract = replace(tiny_contract(), snapshot=tuple(
        replace(column, categories=()) if column.name == "tier" else column for column in tiny_contract().snapshot))
    for tier, twice in (('"a:b"', False), ('"a:b", "tier": "c"', True), ('"a:b", "spend": 2', True)):
        body = f'{{"rows": [{{"visits": 1, "spend": 1, "tier": {tier}}}]}}'.encode()
        assert len(rows_adapter(contract).validate_json(body)["rows"]) == 1
        assert names_twice(body, 1, contract) is twice


def test_a_compressed_body_is_415(served):
    answer = served.post("/v1/score", content=json.dumps({"rows": [GOOD]}),
                         headers={"content-type": "application/json", "content-encoding": "gzip"})
    assert answer.status_code == 415


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/", 404), ("GET", "/v1/customers/a/b/churn", 404), ("GET", "/v1/customers//churn", 404),
    ("DELETE", "/v1/score", 405), ("POST", "/v1/customers/m1/churn", 405), ("GET", "/docs/service.py", 404),
])
def test_no_such_path_and_another_method_are_refused_as_everything_else_is(served, method, path, status):
    answer = served.get(path) if method == "GET" else asyncio.run(served._ask(method, path))
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "request_id"}
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert ("allow" in answer.headers) == (status == 405)
    assert served.count(f'churn_requests_total{{release="{served.release}",route="other",status="{status}"}}') == 1


def test_a_customer_named_in_utf8_is_the_same_by_header_and_by_path(served):
    by_path = served.get("/v1/customers/m%C3%BCller/churn").headers["x-churn-customer"]
    named = served.post("/v1/score", json={"rows": [GOOD]}, headers={"X-Customer-Id": "müller".encode()})
    assert named.headers["x-churn-customer"] == by_path
    assert served.logged()[0]["entity"] == "müller"
    for name in (b"m\xff", b""):
        bad = served.post("/v1/score", json={"rows": [GOOD]}, headers={"X-Customer-Id": name})
        assert (bad.status_code, fields_of(bad)) == (422, [(None, "x-customer-id")])


def test_with_api_keys_who_has_none_gets_401_and_learns_nothing(served, tmp_path, caplog):
    (tmp_path / "keys").write_text(f"crm:{hashlib.sha256(SECRET.encode()).hexdigest()}\n")
    served.change(keys=ApiKeys(tmp_path / "keys", "own"))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {SECRET}"}):
        for answer in (served.get("/v1/customers/m1/churn", headers=headers),
                       served.post("/v1/score", json={"rows": [GOOD]}, headers=headers)):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert "x-churn-customer" not in answer.headers
    assert served.logged() == []
    known = {"Authorization": f"Bearer {SECRET}"}
    assert served.get("/v1/customers/m1/churn", headers=known).status_code == 200
    assert served.post("/v1/score", json={"rows": [GOOD]}, headers=known).status_code == 200
    assert SECRET not in served.log_file.read_text() + caplog.text + served.get("/metrics").text
    assert served.get("/openapi.json").json()["security"] == [{"key": []}]


def test_a_feature_store_that_fails_is_503_without_a_word_of_why(served, caplog):
    def broken(entity):
        raise OSError(f"no route to {SECRET} for {entity}")

    served.change(read_online=broken)
    answer = served.get("/v1/customers/m1/churn")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert SECRET not in answer.text + caplog.text
    assert served.post("/v1/score", json={"rows": [GOOD]}).status_code == 200
    errors = f'churn_errors_total{{release="{served.release}",route="/v1/customers/{{customer_id}}/churn"}}'
    assert served.count(errors) == 1


def test_scores_and_feature_age_are_counted(served):
    served.clock_file.write_text((AS_OF + timedelta(days=3)).isoformat())
    served.get("/v1/customers/m1/churn")
    served.post("/v1/score", json={"rows": [GOOD] * 5})
    release = f'release="{served.release}"'
    assert served.count(f"churn_probability_count{{{release}}}") == 6
    assert served.count(f"churn_feature_age_seconds_sum{{{release}}}") == 3 * 86_400
    assert served.count(f'churn_decisions_total{{action="contact",{release},why="value"}}') == 6


def test_a_null_is_taken_where_the_contract_allows_one(served):
    answer = served.post("/v1/score", json={"rows": [{"visits": 2, "spend": None, "tier": None}]})
    assert answer.status_code == 200


def test_a_thousand_rows_are_scored_and_one_more_is_not(served):
    assert len(served.post("/v1/score", json={"rows": [GOOD] * 1000}).json()["predictions"]) == 1000
    answer = served.post("/v1/score", json={"rows": [GOOD] * 1001})
    assert (answer.status_code, fields_of(answer)) == (422, [(None, "rows")])


def test_a_body_over_a_mebibyte_is_413_also_when_its_length_is_not_announced(served):
    announced = served.post("/v1/score", content=b" " * (2**20 + 1), headers={"content-type": "application/json"})

    async def parts():
        for _ in range(5):
            yield b" " * 2**18

    chunked = served.post("/v1/score", content=parts(), headers={"content-type": "application/json"})
    assert (announced.status_code, chunked.status_code) == (413, 413)


@pytest.mark.parametrize("kind", ["text/plain", "application/vnd.bentoml+pickle", ""])
def test_another_content_type_is_415(served, kind):
    assert served.post("/v1/score", content=json.dumps({"rows": [GOOD]}),
                       headers={"content-type": kind}).status_code == 415


def test_every_row_is_one_line_of_the_prediction_log(served):
    served.post("/v1/score", json={"rows": [GOOD, {**GOOD, "visits": 9}]},
                headers={"X-Request-Id": "r-2", "X-Customer-Id": "m7", "X-Envoy-Attempt-Count": "2"})
    served.get("/v1/customers/gone/churn")
    first, second, third = served.logged()
    assert set(first) == {"at", "request_id", "row", "release_id", "model_version", "entity", "attempt", "features",
                          "probability", "decision", "features_as_of", "degraded", "route"}
    assert [line["route"] for line in (first, second, third)] == ["score", "score", "get"]
    assert [(line["request_id"], line["row"], line["attempt"], line["entity"]) for line in (first, second)] == [
        ("r-2", 0, 2, "m7"), ("r-2", 1, 2, "m7")]
    assert second["features"] == {"visits": 9, "spend": 12.5, "tier": "gold"}
    assert third["features"] == {"visits": 2, "spend": None, "tier": None}
    assert third["features_as_of"] == "2025-01-01T00:00:00Z"
    assert stat.S_IMODE(os.stat(served.log_file).st_mode) == 0o600


def test_a_full_disk_costs_the_log_line_and_not_the_answer(served):
    full = PredictionLog(served.log_file)
    os.dup2(os.open("/dev/full", os.O_WRONLY), full._file)
    served.change(log=full)
    assert served.get("/v1/customers/m1/churn").status_code == 200
    assert served.count(f'churn_prediction_log_failures_total{{release="{served.release}"}}') == 1


def test_a_broken_model_is_500_without_the_exception_and_without_values_in_the_log(served, caplog):
    class Broken:
        def score(self, _):
            raise ValueError(SECRET)

    served.change(payload=replace(served.app.state.runtime.payload, scorer=Broken()))
    answer = served.get("/v1/customers/m1/churn")
    assert answer.status_code == 500
    assert "ValueError at" in caplog.text
    assert SECRET not in answer.text + caplog.text
    assert "m1" not in caplog.text


def test_requests_are_counted_by_route_and_status_and_never_by_customer(served):
    served.get("/v1/customers/m1/churn")
    served.get("/v1/customers/nobody/churn")
    route = f'release="{served.release}",route="/v1/customers/{{customer_id}}/churn"'
    assert served.count(f'churn_requests_total{{{route},status="200"}}') == 1
    assert served.count(f'churn_requests_total{{{route},status="404"}}') == 1
    assert served.count(f"churn_request_seconds_count{{{route}}}") == 2
    assert served.count(f'churn_decisions_total{{action="contact",release="{served.release}",why="value"}}') == 1
    assert "nobody" not in served.get("/metrics").text


@pytest.mark.parametrize("given", ["x" * 300, "a\tb"])
def test_a_request_id_that_cannot_be_used_is_replaced(served, given):
    answer = served.get("/v1/customers/m1/churn", headers={"X-Request-Id": given})
    assert answer.json()["request_id"] != given
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_a_customer_id_too_long_to_be_one_is_422(served):
    answer = served.get(f"/v1/customers/{'x' * 201}/churn")
    assert (answer.status_code, fields_of(answer)) == (422, [(None, "customer_id")])


def test_the_docs_page_needs_no_other_host_and_all_its_files_are_there(served):
    page = served.get("/docs")
    assert page.status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        assert served.get(f"/docs/{name}").status_code == 200
    assert served.get("/openapi.json").status_code == 200
    assert served.get("/docs/../service.py").status_code == 404
    assert served.get("/docs/marked.min.js").status_code == 404


def test_the_described_row_has_the_fields_of_the_contract(served):
    document = served.get("/openapi.json").json()
    row = document["components"]["schemas"]["Row"]
    assert list(row["properties"]) == tiny_contract().feature_names
    assert row["additionalProperties"] is False
    assert row["properties"]["visits"]["minimum"] == 0
    assert set(document["paths"]) == {"/v1/customers/{customer_id}/churn", "/v1/score"}


def test_a_feature_service_that_lacks_a_field_keeps_the_release_from_starting(tmp_path):
    registry, online = write_store(tmp_path, drop="tier")
    contract = tiny_contract()
    with pytest.raises(ReleaseError, match="lacks a field of the release: 'tier'"):
        open_online(registry, online, contract, service_name=contract.service_name, view=VIEW)
    with pytest.raises(ReleaseError, match="the release needs 'other_view'"):
        open_online(registry, online, contract, service_name=contract.service_name, view="other_view")
    with pytest.raises(ReleaseError, match="cannot open the feature service 'churn_none'"):
        open_online(registry, online, contract, service_name="churn_none", view=VIEW)


def test_a_missing_online_store_is_refused_and_not_made(tmp_path):
    contract = tiny_contract()
    with pytest.raises(ReleaseError, match=r"none\.db does not exist"):
        open_online("sqlite://", tmp_path / "none.db", contract, service_name="x", view="x")
    assert not (tmp_path / "none.db").exists()


def test_a_payload_whose_contract_was_changed_is_refused(tmp_path):
    write_payload(tmp_path, fingerprint="000000000000")
    with pytest.raises(ReleaseError, match="names the contract 000000000000"):
        load_payload(tmp_path)


def test_a_payload_without_threshold_is_refused(tmp_path):
    write_payload(tmp_path, threshold=None)
    with pytest.raises(ReleaseError, match=r"release\.json has no threshold"):
        load_payload(tmp_path)


def test_the_bounds_of_the_domains_own_contract_are_the_apis():
    rows = rows_adapter(CONTRACT).json_schema()["$defs"]["Row"]["properties"]
    least = {column.name: column.minimum for column in CONTRACT.features if column.minimum is not None}
    assert least
    for name, minimum in least.items():
        numbers = [one for one in rows[name].get("anyOf", [rows[name]]) if one["type"] in ("number", "integer")]
        assert [one.get("minimum") for one in numbers] == [minimum], name
    assert rows["weekend_share_180d"]["anyOf"][0]["maximum"] == 1


def test_a_given_number_that_no_model_can_take_is_the_callers_fault(served, monkeypatch):
    def refuse(_rows):
        raise DataError("cannot score rows: a number is outside what the model can take")

    monkeypatch.setattr(served.app.state.runtime.payload.scorer.__class__, "score", lambda _self, rows: refuse(rows))
    answer = served.post("/v1/score", json={"rows": [GOOD]})
    assert answer.status_code == 422
    assert answer.json()["fields"][0]["field"] == "rows"
    assert served.get("/v1/customers/m1/churn").status_code == 500
