"""The sources file: what it may say, and that it holds no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from feature_repo.contract import CONTRACT
from models.errors import ConfigError
from tasks.data.sources import Sources, load_sources

COLUMNS = {"customer_id": "who", "ordered_at": "at", "items": "n", "amount": "paid"}
DATABASE = {"database": "${SHOP_URL}", "query": "SELECT 1", "watermark": "at", "columns": COLUMNS}
FILES = {"path": "*.csv", "columns": COLUMNS}
URL = "postgresql://shop:geheim@db:5432/shop"


def load(tmp_path: Path, orders: dict[str, object], **variables: str) -> Sources:
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump({"tables": {"orders": orders}}), encoding="utf-8")
    return load_sources(path, CONTRACT, variables={"SHOP_URL": URL, **variables})


def test_a_database_is_named_by_a_variable_and_its_url_never_shown(tmp_path):
    sources = load(tmp_path, DATABASE)
    secret = sources.tables["orders"].database
    assert secret is not None
    assert secret.get_secret_value() == URL
    assert "geheim" not in repr(sources) + str(sources.model_dump())


def test_a_value_of_a_variable_is_not_read_as_yaml(tmp_path):
    sources = load(tmp_path, {**FILES, "path": "${FOLDER}/a.csv"}, FOLDER="x: #1")
    assert sources.tables["orders"].path == "x: #1/a.csv"


@pytest.mark.parametrize(("orders", "said"), [
    ({**DATABASE, "path": "*.csv"}, "tables.orders: give it either a path or a database"),
    ({"columns": COLUMNS}, "tables.orders: give it either a path or a database"),
    ({**FILES, "watermark": "at"}, "tables.orders: watermark belongs to a database, and it has a path"),
    ({**DATABASE, "totals": "t.csv"}, "tables.orders: totals belongs to a path, and it has a database"),
    ({name: value for name, value in DATABASE.items() if name != "query"}, "a database needs a query"),
    ({name: value for name, value in DATABASE.items() if name != "watermark"}, "a database needs a watermark"),
    ({**FILES, "paht": "x"}, "tables.orders.paht: unknown key; nearest known: path"),
    ({**DATABASE, "overlap_days": -1}, "overlap_days: Input should be greater than or equal to 0"),
    ({**DATABASE, "database": "postgresql://shop:geheim@db/shop"}, "holds a password. Put the URL into"),
    ({**DATABASE, "database": "postgresql://db/shop?password=geheim"}, "holds a password"),
    ({**DATABASE, "database": "${NOT_SET:-postgresql://shop:geheim@db/shop}"}, "holds a password"),
    ({**DATABASE, "database": "host=db password=geheim"}, "holds a password"),
    ({**DATABASE, "database": "${NOT_SET}"}, r"\$\{NOT_SET\} is not set in the environment"),
    ({**DATABASE, "database": "mysql://${USER}@db/shop"}, "is no postgresql:// URL"),
    ({**DATABASE, "database": "postgresql://db"}, "is no postgresql:// URL with a database's name"),
    ({**DATABASE, "database": "postgresql://u:${BROKEN}@db/shop"}, "percent-encoded"),
    ({**DATABASE, "database": "postgresql://u:${SLASH}@db/shop"}, "is no URL"),
    ({**FILES, "columns": {**COLUMNS, "amuont": "x"}}, "orders has no column 'amuont'; nearest known: amount"),
    ({**FILES, "columns": {"customer_id": "who"}}, r"orders.ordered_at .* is not mapped"),
])
def test_a_sources_file_that_cannot_be_used_is_refused_in_one_line_without_a_secret(tmp_path, orders, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load(tmp_path, orders, BROKEN="geheim@wort", SLASH="geheim/wort", USER="u")
    assert "\n" not in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_password_that_is_a_variable_is_no_literal_one(tmp_path):
    sources = load(tmp_path, {**DATABASE, "database": "postgresql://shop:${PASSWORD}@db:5432/shop"}, PASSWORD="geheim")
    assert "geheim" not in repr(sources)
