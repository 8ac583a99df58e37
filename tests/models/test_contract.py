from __future__ import annotations

import json
from dataclasses import replace

import pandera.polars as pa
import pytest

from feature_repo.contract import CONTRACT
from models.contract import Contract
from models.contract_schemas import contract_from_schemas
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
        contract_from_schemas({"bare": Bare.to_schema()}, Bare.to_schema(), sql={})


def test_the_label_is_no_feature_and_no_snapshot_column():
    assert CONTRACT.label == "churned"
    assert CONTRACT.label not in {column.name for column in CONTRACT.snapshot}


def test_every_check_of_a_raw_column_carries_a_dimension_of_data_quality():
    dimensions = {check.dimension for table in CONTRACT.tables for column in table.columns for check in column.checks}
    assert dimensions == {"accuracy", "completeness", "consistency"}  # timeliness is measured by load, not by row


def test_a_check_of_an_unknown_dimension_is_refused():
    class Odd(pa.DataFrameModel):
        thing: str = pa.Field(description="odd", metadata={"role": "entity_key", "unit": "id"})

        @pa.check("thing", name="nice", title="beauty", description="thing is ugly")
        def _nice(cls, data: pa.PolarsData) -> bool:
            return bool(data)

    with pytest.raises(ConfigError, match=r"check nice of odd\.thing has the dimension 'beauty'; known: accuracy"):
        contract_from_schemas({"odd": Odd.to_schema()}, Odd.to_schema(), sql={})


def test_a_field_that_columns_get_one_day_does_not_rename_the_contract_of_a_release_that_serves():
    """Its JSON holds no field at its default, so one that no column sets yet is not in it."""
    raw = json.loads(CONTRACT.to_json())
    columns = [*raw["snapshot"], *(column for table in raw["tables"] for column in table["columns"])]
    assert not any("not_before" in column and column["not_before"] is None for column in columns)
    assert not any(column.get("ages") is False for column in columns)


def test_how_a_feature_is_presented_renames_no_feature_view():
    first, *others = CONTRACT.snapshot
    reworded = replace(first, group="other", segment=True, sign=-1, reason="{value} high", reason_low="{value} low")
    contract = replace(CONTRACT, snapshot=(reworded, *others))
    assert contract.fingerprint == CONTRACT.fingerprint
    assert Contract.from_json(contract.to_json()) == contract != CONTRACT


def test_a_sign_that_is_none_is_refused():
    schema = pa.DataFrameSchema({"n": pa.Column(int, description="n", metadata={
        "role": "numeric", "unit": "count", "sign": 2})})
    with pytest.raises(ConfigError, match=r"column snapshot\.n has the sign 2; known: 1 \(more of it, more churn\)"):
        contract_from_schemas({}, schema, sql={})
