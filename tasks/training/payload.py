"""Payload stage. Reads a candidate; writes the folder a release is packaged from (see models/serving/payload.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from models.charter import Charter
from models.contract import Contract
from models.errors import ReleaseError
from models.gates.concept import Reference, refer
from models.serving.compiled import compile_pipeline
from models.serving.scorer import load_pipeline, plain_rows, predict
from models.training.contacts import row_weights
from models.training.fit import Candidate

REFERENCE_ROWS: Final = 5000
GOLDEN_ROWS: Final = 50
COMPILED_ROWS: Final = 2000
COMPILED_TOLERANCE: Final = 1e-12
PIPELINE: Final = "pipeline.skops"


def write_payload(
    candidate: Candidate, folder: Path, *, contract: Contract, charter: Charter, test: pd.DataFrame, pins: str,
    facts: Mapping[str, Any],
) -> None:
    """Everything a release carries but the model version, which it does not have yet.

    Args:
        facts: run id, `as_of`, dataset version and monthly value.

    Raises:
        ReleaseError: see `check_ships`.
    """
    import skops.io

    folder.mkdir(parents=True, exist_ok=True)
    skops.io.dump(candidate.pipeline, folder / PIPELINE)
    shipped = check_ships(candidate, folder / PIPELINE, test, contract)
    drawn, worth = draw_reference(test)
    reference = drawn[contract.feature_names]
    golden = test.sample(min(len(test), GOLDEN_ROWS), random_state=0)[contract.feature_names]
    # As a caller would send them: whole numbers where the contract says so.
    golden = golden.astype({column.name: "Int64" for column in contract.features if column.dtype == "int64"})
    (folder / "contract.json").write_text(contract.to_json(), encoding="utf-8")
    (folder / "charter.json").write_text(charter.model_dump_json(), encoding="utf-8")
    (folder / "requirements.txt").write_text(pins, encoding="utf-8")
    (folder / "release.json").write_text(json.dumps({
        **facts, "fingerprint": contract.fingerprint, "feature_service": contract.service_name,
        "feature_view": contract.view_name, "estimator": candidate.estimator, "threshold": candidate.threshold,
        "auc": candidate.metrics.auc, "baseline_auc": candidate.baseline_auc, "holdout_salt": charter.name,
        "importance": dict(candidate.importance), "reference_worth": worth,
        "test_brier": asdict(_test_brier(candidate, test, contract)),
    }, indent=1), encoding="utf-8")
    reference.assign(churn_probability=predict(shipped, reference, contract)).to_parquet(folder / "reference.parquet")
    golden.assign(expected_probability=predict(shipped, golden, contract)).to_parquet(folder / "golden.parquet")
    scored = test[[contract.entity_key, "event_timestamp"]]  # of each customer and date: what serving is held against
    scored.assign(churn_probability=candidate.probability).to_parquet(folder / "scores.parquet")


def _test_brier(candidate: Candidate, test: pd.DataFrame, contract: Contract) -> Reference:
    """What concept drift is told from: the Brier loss on the test rows, and its excess over what was promised."""
    return refer(candidate.probability, test[contract.label].to_numpy(dtype=float), row_weights(test))


def draw_reference(test: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Rows of the latest test cut that stand for all its customers, and how many rows they are worth.

    What drift is compared with. Not of a training cut: a model is surer of rows it was fitted to, so the scores of
    others would look like drift. Where contacted customers were left out, the others are drawn by their weights, some
    more than once: else each customer like those would later look like drift. At even steps of the added weights
    (Madow, Ann. Math. Statist. 20, 1949). What rows with copies among them are worth: Kish, Survey Sampling, 1965.
    """
    latest = test[test["event_timestamp"] == test["event_timestamp"].max()]
    weight, count = row_weights(latest), min(len(latest), REFERENCE_ROWS)
    if weight is None:
        return latest.sample(count, random_state=0), float(count)
    random = np.random.default_rng(0)
    order = random.permutation(len(latest))
    added = np.cumsum(weight[order])
    at = np.searchsorted(added, (np.arange(count) + random.random()) * added[-1] / count)
    places = order[np.minimum(at, len(order) - 1)]
    times = np.bincount(places)
    return latest.iloc[places], float(round(count**2 / (times**2).sum(), 1))


def check_ships(candidate: Candidate, path: Path, test: pd.DataFrame, contract: Contract) -> Any:
    """Load what was written the way the service will, and score the test rows: what was evaluated is what ships.

    Returns:
        The loaded pipeline.

    Raises:
        ReleaseError: it cannot be loaded, or one test row scores differently.
    """
    shipped = load_pipeline(path)
    apart = np.abs(predict(shipped, test, contract) - candidate.probability)
    worst = float(apart.max())
    if not worst == 0:  # a NaN is no agreement either
        raise ReleaseError(f"cannot register the model: written and loaded again it scores {int((apart != 0).sum()):,} "
                           f"of {len(test):,} test rows differently (by {worst:.3g} at most), so it would not be the "
                           "model that was evaluated. See which step of the pipeline skops does not keep")
    _check_compiled(shipped, test.head(COMPILED_ROWS), contract)
    return shipped


def _check_compiled(shipped: Any, rows: pd.DataFrame, contract: Contract) -> None:
    """Now rather than when a release starts: whether the service's fast paths answer as the pipeline does."""
    scorer, plain = compile_pipeline(shipped, contract), plain_rows(rows, contract.feature_names)
    expected = predict(shipped, rows, contract)
    for path, scores in (("compiled", [scorer.one(row) for row in plain]),
                         ("compiled for many rows", scorer.score_many(plain))):
        worst = float(np.abs(np.asarray(scores) - expected).max())
        if not worst <= COMPILED_TOLERANCE:
            raise ReleaseError(f"cannot register the model: {path} it scores up to {worst:.3g} away from its pipeline "
                               f"(limit {COMPILED_TOLERANCE:g}). Mend models/serving/compiled.py")


def complete_payload(folder: Path, *, model_version: str) -> None:
    """Write the model version into `release.json`: from now on the folder can be packaged."""
    manifest = folder / "release.json"
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({"model_version": model_version, **facts}, indent=1), encoding="utf-8")
