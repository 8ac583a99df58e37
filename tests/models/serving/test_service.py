"""What models/serving/service.py sets in BentoML, some of it by names that are not public: an upgrade must notice."""

import subprocess
import sys

import pytest

from models.errors import ReleaseError
from models.serving.service import Churn
from models.serving.start import load_runtime
from tests.release_payload import KEY, write_payload, write_store

VARIABLES = ("CHURN_FEAST_REGISTRY", "CHURN_FEAST_ONLINE", "CHURN_FEAST_PROJECT", "CHURN_CUSTOMER_KEY_FILE",
             "CHURN_PREDICTION_LOG")


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A place in which a release starts."""
    registry, online = write_store(tmp_path / "feast")
    (tmp_path / "key").write_bytes(KEY)
    places = (registry, str(online), "churn", str(tmp_path / "key"), str(tmp_path / "predictions.jsonl"))
    for name, value in zip(VARIABLES, places, strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CHURN_CLOCK_FILE", raising=False)
    return write_payload(tmp_path / "release")


def test_tracing_and_path_labelled_metrics_are_off_the_hot_path():
    names = [middleware.cls.__name__ for middleware in Churn.to_asgi().user_middleware]
    assert "RunnerTrafficMetricsMiddleware" not in names
    assert "AccessLogMiddleware" not in names
    tracing = next(each for each in Churn.to_asgi().user_middleware if each.cls.__name__ == "OpenTelemetryMiddleware")
    excluded = tracing.kwargs["excluded_urls"]
    assert excluded.url_disabled("http://127.0.0.1/v1/customers/m1/churn")
    assert excluded.url_disabled("http://127.0.0.1/v1/score")


def test_bentoml_keeps_its_probes_and_leaves_the_other_paths_to_us():
    paths = {route.path for route in Churn.to_asgi().routes}
    assert {"/readyz", "/livez"} <= paths
    assert "/metrics" not in paths


def test_loading_the_service_module_imports_nothing_heavy():
    heavy = ("feast", "pandas", "sklearn", "pyarrow", "skops", "scipy")
    code = f"import sys, models.serving.service; print([name for name in {heavy} if name in sys.modules])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert seen.stdout.strip() == "[]"


def test_a_release_starts_where_everything_is_in_place(environment):
    assert load_runtime(environment, release_id="churn:v3").release_id == "churn:v3"


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_that_is_not_set_is_named(environment, monkeypatch, name):
    monkeypatch.delenv(name)
    with pytest.raises(ReleaseError, match=f"{name} is not set"):
        load_runtime(environment, release_id="churn:v3")


def test_a_missing_or_short_key_keeps_the_release_from_starting(environment, tmp_path):
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(ReleaseError, match="has 5 bytes, at least 16"):
        load_runtime(environment, release_id="churn:v3")
    (tmp_path / "key").unlink()
    with pytest.raises(ReleaseError, match="No such file"):
        load_runtime(environment, release_id="churn:v3")


def test_an_online_store_without_our_table_keeps_the_release_from_starting(environment, tmp_path, monkeypatch):
    (tmp_path / "other.db").write_bytes(b"")
    monkeypatch.setenv("CHURN_FEAST_ONLINE", str(tmp_path / "other.db"))
    with pytest.raises(ReleaseError, match="the first online read or score failed: OperationalError"):
        load_runtime(environment, release_id="churn:v3")
