from __future__ import annotations

from dataclasses import replace

import pandera.polars as pa
import pytest

from feature_repo.contract import CONTRACT
from models.contract import Contract
from models.errors import ConfigError


def test_a_contract_survives_json():
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT


def test_the_fingerprint_changes_with_a_byte_of_sql_and_with_a_unit():
    sql = {**CONTRACT.sql, "snapshot.sql": CONTRACT.sql["snapshot.sql"] + " "}
    first = CONTRACT.snapshot[-1]
    renamed = (*CONTRACT.snapshot[:-1], replace(first, unit="other"))
    changed = [CONTRACT, replace(CONTRACT, sql=sql), replace(CONTRACT, snapshot=renamed)]
    assert len({contract.fingerprint for contract in changed}) == 3


def test_a_table_that_is_missing_takes_its_features_out_of_the_effective_contract():
    effective = CONTRACT.effective(["orders"])
    assert [table.name for table in effective.present] == ["orders"]
    assert "age_years" in CONTRACT.feature_names
    assert "age_years" not in effective.feature_names
    assert effective.fingerprint != CONTRACT.fingerprint


def test_a_table_that_is_needed_cannot_be_missing():
    with pytest.raises(ConfigError, match="no table 'orders'"):
        CONTRACT.effective(["customers"])


def test_every_column_has_a_role_a_unit_and_a_description():
    class Bare(pa.DataFrameModel):
        thing: str

    with pytest.raises(ConfigError, match=r"bare\.thing has the role None"):
        Contract.from_schemas({"bare": Bare.to_schema()}, Bare.to_schema(), sql={})


def test_the_label_is_no_feature_and_no_snapshot_column():
    assert CONTRACT.label == "churned"
    assert CONTRACT.label not in {column.name for column in CONTRACT.snapshot}
