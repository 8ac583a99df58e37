"""Where a release reads features: URLs of stores, unknown and old customers, on SQLite and on Redis."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx
import pytest

from models.errors import ConfigError
from models.serving.api import build_app
from models.serving.features_online import online_config, open_online, redis_config, registry_path, shown
from models.serving.payload import load_payload
from models.serving.platform_clock import PlatformClock
from models.serving.prediction_log import PredictionLog
from models.serving.runtime import build_runtime
from tests.release_payload import AS_OF, KEY, VIEW, write_payload, write_store


def connection(place: str) -> dict[str, object]:
    """What Feast makes of our configuration."""
    from feast.infra.online_stores.redis import RedisOnlineStore

    nodes, options = RedisOnlineStore._parse_connection_string(redis_config(place, seconds=2)["connection_string"])
    return {**nodes[0], **options}


def test_a_redis_url_reaches_feast_with_database_time_limits_and_tls():
    limits = {"socket_timeout": 2, "socket_connect_timeout": 2}
    assert connection("redis://store:6380/3") == {"host": "store", "port": "6380", "db": 3, **limits}
    assert connection("rediss://store") == {"host": "store", "port": "6379", "db": 0, "ssl": True, **limits}


@pytest.mark.parametrize("password", ["plain", "12345", "null", "a,b=c", 'quo"te', "tab\tand é"])
def test_every_password_reaches_redis_as_it_is(password):
    from urllib.parse import quote

    seen = connection(f"redis://me:{quote(password, safe='')}@store/0")
    assert (seen["username"], seen["password"]) == ("me", password)


@pytest.mark.parametrize("place", [
    "http://u:hidden@h/0", "redis://u:hidden@h:port/0", "redis://u:hidden@h/zero", "redis://u:hidden@/0",
    "redis://u:hidden@h/0?ssl=true", "h:6379",
])
def test_what_is_no_redis_url_is_refused_without_its_password(place):
    with pytest.raises(ConfigError, match=r"cannot use the online store .*: not redis://host:port/db") as raised:
        redis_config(place, seconds=1)
    assert "hidden" not in str(raised.value)


def test_a_file_is_sqlite():
    assert online_config("/some/online.db", seconds=1) == {"type": "sqlite", "path": "/some/online.db"}


def test_a_postgresql_registry_is_opened_by_psycopg():
    assert registry_path("postgresql://root@h:5432/churn") == "postgresql+psycopg://root@h:5432/churn"
    assert registry_path("postgres://h/churn") == registry_path("postgresql+psycopg://h/churn")
    assert registry_path("sqlite:////a/registry.db") == "sqlite:////a/registry.db"
    for place in ("postgresql://127.0.0.1:5432/", "postgresql://root@h", "postgresql:///?user=me"):  # the user's own
        with pytest.raises(ConfigError, match="not postgresql://user@host:port/database"):
            registry_path(place)
    with pytest.raises(ConfigError, match="registry mysql://h/churn: not postgresql://") as raised:
        registry_path("mysql://root:hidden@h/churn")
    assert "hidden" not in str(raised.value)


def test_a_place_is_shown_without_user_password_and_options():
    assert shown("redis://me:pass@host:1/2?password=x") == "redis://host:1/2"


class Place:
    """A release over one of the stores, its clock at `days` after the features."""

    def __init__(self, folder, online: str, project: str) -> None:
        self.folder, self.payload = folder, load_payload(write_payload(folder / "release"))
        registry, _ = write_store(folder / "feast", online=online, project=project)
        self.read = open_online(registry, online, self.payload.contract, view=VIEW, project=project,
                                service_name=self.payload.manifest["feature_service"])

    def get(self, customer: str, *, days: float) -> httpx.Response:
        clock = self.folder / "clock"
        clock.write_text((AS_OF + timedelta(days=days)).isoformat())
        app = build_app()
        app.state.runtime = build_runtime(
            self.payload, release_id=f"churn:{self.folder.name}", log=PredictionLog(self.folder / "predictions.jsonl"),
            customer_key=KEY, clock=PlatformClock(clock), read_online=self.read)

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.get(f"/v1/customers/{customer}/churn")

        return asyncio.run(ask())


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.service)])
def place(request, tmp_path) -> Place:
    if request.param == "sqlite":
        return Place(tmp_path, str(tmp_path / "feast/online.db"), "churn")
    return Place(tmp_path, *request.getfixturevalue("redis_project"))


def test_an_unknown_customer_is_unknown_on_every_store(place):
    """SQLite says NOT_FOUND, Redis PRESENT with nulls."""
    assert place.read("nobody") is None
    answer = place.get("nobody", days=0)
    assert answer.status_code == 404
    assert answer.json()["error"] == "unknown customer: the online store has no features of it"


def test_a_customer_with_nulls_is_known_on_every_store(place):
    row = place.read("gone")
    assert (row.features, row.eligible, row.as_of) == ({"visits": 2.0, "spend": None, "tier": None}, False, AS_OF)


def test_features_older_than_the_charter_allows_are_degraded_on_every_store(place):
    """Feast's own ttl is not looked at online; the charter allows 35 days."""
    assert "degraded" not in place.get("m1", days=35).json()
    answer = place.get("m1", days=35.01)
    assert (answer.status_code, answer.json()["degraded"]) == (200, ["stale_features"])
