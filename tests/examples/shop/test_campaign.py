"""The shop's own system: whom it leaves out, how it waits for the API, and that ingest takes what it writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from examples.shop.campaign import CampaignError, Listed, main, read_list, run_campaign
from feature_repo.contract import CONTRACT, RAW_TABLES
from tasks.data.ingest import ingest_sources
from tasks.data.manifest import committed_files
from tasks.data.sources import Sources, TableSource
from tests.tasks.conftest import REPO, Shop, day, make_shop

AS_OF = datetime(2025, 1, 1, tzinfo=UTC)
AT = datetime(2025, 1, 2, 8, tzinfo=UTC)
Reply = tuple[int, dict[str, str], dict[str, object]]  # status, headers, document


def decided(action: str, why: str, **more: object) -> Reply:
    return 200, {}, {"decision": {"action": action, "why": why, "expected_value": 1.0}, **more}


CONTACT = decided("contact", "value")


class Api:
    """Answers with what a test says, in turn; the last answer stays."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.asked: list[tuple[str, str | None]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                customer = self.path.split("/")[3]
                api.asked.append((customer, self.headers.get("authorization")))
                replies = api.replies.get(customer, [CONTACT])
                status, headers, document = replies.pop(0) if len(replies) > 1 else replies[0]
                body = json.dumps(document).encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def run(api: Api, tmp_path: Path) -> Callable[..., tuple[object, list[float]]]:
    def go(*customers: str, key: str | None = None) -> tuple[object, list[float]]:
        waits: list[float] = []
        return run_campaign(Listed(AS_OF, customers), api=api.url, contacts=tmp_path, at=AT, key=key,
                            sleep=waits.append), waits
    return go


def written(folder: Path) -> list[str]:
    return (folder / "contacts-2025-01-01.csv").read_text().splitlines()


def test_who_changed_since_the_list_was_made_is_left_out(api, run, tmp_path):
    api.replies = {"gone": [(404, {}, {})], "paid": [decided("leave", "no_value")],
                   "old": [decided("contact", "value", degraded=["stale_features"])], "odd": [(500, {}, {})]}
    done, _ = run("c1", "gone", "paid", "old", "odd", "c2", key="k")
    assert done.contacted == ("c1", "c2")
    assert done.text() == ("2 contacted, 4 left (1 by now no_value, 1 of stale features, 1 unknown, "
                           "1 without an answer)")
    assert written(tmp_path) == ["customer_id,contacted_at,arrived_at",
                                 "c1,2025-01-02T08:00:00Z,2025-01-02T08:00:00Z",
                                 "c2,2025-01-02T08:00:00Z,2025-01-02T08:00:00Z"]
    assert {header for _, header in api.asked} == {"Bearer k"}


def test_it_asks_again_as_late_as_the_api_says(api, run):
    api.replies = {"c1": [(503, {"retry-after": "3"}, {}), (429, {"retry-after": "9999"}, {}), (503, {}, {}), CONTACT]}
    done, waits = run("c1")
    assert done.contacted == ("c1",)
    assert waits == [3.0, 30.0, 1.0]


def test_a_list_has_one_campaign_however_often_it_is_run(api, run, tmp_path):
    run("c1")
    before, asked = written(tmp_path), len(api.asked)
    assert run("c1", "c2")[0] is None
    assert (written(tmp_path), len(api.asked)) == (before, asked)


def test_an_api_that_does_not_answer_ends_it_and_nothing_is_written(api, run, tmp_path):
    api.replies = {name: [(503, {}, {})] for name in ("c2", "c3", "c4")}
    with pytest.raises(CampaignError, match="did not answer about 3 customers in a row"):
        run("c1", "c2", "c3", "c4", "c5")
    api.replies = {"c1": [(401, {}, {})]}
    with pytest.raises(CampaignError, match=r"it wants a key\. Set CHURN_API_KEY"):
        run("c1")
    assert list(tmp_path.iterdir()) == []


def test_the_list_is_the_first_within_the_budget_of_the_newest_file(tmp_path, capsys):
    rows = pl.DataFrame({"rank": [2, 1, 3], "customer_id": ["b", "a", "c"], "within_budget": [True, True, False],
                         "as_of": [AS_OF] * 3})
    rows.write_parquet(tmp_path / "as_of=2025-01-01.parquet")
    rows.with_columns(customer_id=pl.lit("old")).write_parquet(tmp_path / "as_of=2024-12-01.parquet")
    assert read_list(str(tmp_path), first=9) == Listed(AS_OF, ("a", "b"))
    assert read_list(str(tmp_path), first=1).customers == ("a",)
    assert main(["--scores", str(tmp_path / "none.parquet"), "--contacts", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: cannot read the list: there is no ")


def test_ingest_takes_the_contacts_that_were_written(run, tmp_path):
    shop: Shop = make_shop(tmp_path / "shop")
    run("c1")
    table = TableSource(path=str(tmp_path / "contacts-*.csv"),
                        columns={name: name for name in ("customer_id", "contacted_at", "arrived_at")})
    sources = Sources(tables={**shop.sources.tables, "contacts": table})
    contract = CONTRACT.effective(sources.tables, eligible_within_days=60)
    shop.write("orders", "o1,c1,2025-01-10,1,10.00,2025-01-10")
    ingest_sources(sources, contract, RAW_TABLES, charter=shop.charter, home=shop.home, engine=shop.engine, root=REPO,
                   as_of=day("2025-02-01"))
    [file] = committed_files(shop.home, shop.engine, "contacts")
    assert pl.read_parquet(file).select("customer_id", "contacted_at").rows() == [("c1", AT)]
