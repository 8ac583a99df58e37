"""What keeps a release from starting: each in one line that says what is wrong."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from models.errors import ReleaseError
from models.serving.payload import load_payload
from tests.release_payload import tiny_contract, write_payload


@pytest.mark.parametrize("estimator", ["logistic", "boosting"])
def test_a_whole_payload_loads_with_its_scorer_and_what_reasons_need(tmp_path, estimator):
    payload = load_payload(write_payload(tmp_path, estimator=estimator))
    assert payload.scorer.one({"visits": 1, "spend": None, "tier": "gold"}) > 0.5
    assert payload.attributor is not None


def refusal(folder) -> str:
    with pytest.raises(ReleaseError) as refused:
        load_payload(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_model_file_cut_short_is_refused(tmp_path):
    model = write_payload(tmp_path) / "pipeline.skops"
    model.write_bytes(model.read_bytes()[:-200])
    assert "cannot load pipeline.skops" in refusal(tmp_path)


def test_golden_rows_cut_short_are_refused(tmp_path):
    golden = write_payload(tmp_path) / "golden.parquet"
    golden.write_bytes(golden.read_bytes()[:-20])
    assert "cannot read golden.parquet" in refusal(tmp_path)


def test_a_golden_row_off_by_a_millionth_is_refused_by_row_and_path(tmp_path):
    said = refusal(write_payload(tmp_path, golden_off_by=1e-6))
    assert "golden row 2 scores" in said
    assert "by the pipeline, expected" in said


@pytest.mark.parametrize(("path", "method"), [("the compiled scorer", "one"),
                                              ("the compiled scorer for many rows", "score_many")])
def test_a_scorer_that_differs_from_the_pipeline_is_refused_by_its_path(tmp_path, monkeypatch, path, method):
    from models.serving.compiled import CompiledScorer, compile_pipeline

    def off(pipeline, contract):
        made = compile_pipeline(pipeline, contract)
        if method == "one":
            return replace(made, one=lambda row: made.one(row) + 1e-6)
        right = made.score_many
        monkeypatch.setattr(CompiledScorer, "score_many", lambda _, rows: [one + 1e-6 for one in right(rows)])
        return made

    monkeypatch.setattr("models.serving.payload.compile_pipeline", off)
    assert "golden row 0 scores 0." in refusal(write_payload(tmp_path))
    assert f"by {path}, expected" in refusal(tmp_path)


def test_a_contract_that_is_not_the_one_it_was_made_for_is_refused(tmp_path):
    write_payload(tmp_path)
    contract = tiny_contract()
    other = replace(contract, snapshot=contract.snapshot[:-1])
    (tmp_path / "contract.json").write_text(other.to_json())
    assert f"release.json names the contract {contract.fingerprint}, contract.json is {other.fingerprint}" in (
        refusal(tmp_path))


def test_reasons_without_anybody_to_compare_with_are_refused_and_not_needed_where_none_are_promised(tmp_path):
    (write_payload(tmp_path / "some") / "reference.parquet").unlink()
    assert "cannot read reference.parquet: FileNotFoundError" in refusal(tmp_path / "some")
    (write_payload(tmp_path / "none", explanations=0) / "reference.parquet").unlink()
    assert load_payload(tmp_path / "none").attributor is None


def test_golden_rows_of_other_features_are_refused(tmp_path):
    golden = write_payload(tmp_path) / "golden.parquet"
    pd.read_parquet(golden).drop(columns="tier").to_parquet(golden)
    assert "golden.parquet has no 'tier'" in refusal(tmp_path)
