"""What a model card says. Reads a run's record, evaluation, plots and payload, and the ledger; writes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import sqlalchemy as sa

from models.card.model_card import ModelCard, Verdict
from models.contract import Contract
from models.errors import PipelineError
from models.evaluation.result import Evaluation
from models.serving.reasons import explain
from models.serving.scorer import load_pipeline
from tasks.data.quality import read_scorecards
from tasks.release import releases
from tasks.state import read_decisions
from tasks.training.record import Record, read_record
from tasks.training.tracking import Run, store_errors

LIBRARIES = ("scikit-learn", "numpy", "pandas", "optuna")  # named; the record has them all

def read_card(run: Run, engine: sa.Engine) -> ModelCard:
    """Everything that is known of a run's model: what the run recorded, and what the ledger says since.

    Raises:
        PlatformError: there is no such run, or it left no record.
    """
    record = read_record(run.home, run.run_id)
    left = _left(run, record.charter.requirements.explanations)
    version = version_of(engine, run.run_id)
    metrics, params = record.metrics, record.params
    return ModelCard(
        version=version, as_of=record.as_of, charter=record.charter, contract=record.contract,
        estimator=str(params.get("estimator", "unknown")), threshold=metrics.get("threshold", float("nan")),
        evaluation=left.evaluation, verdicts=verdicts_about(engine, record, version),
        importance=_under("importance/", metrics), baselines=_under("baseline/value/", metrics),
        data=data_facts(record), quality=_quality(engine, record.dataset.last_load),
        provenance=provenance_facts(record), hypothesis=record.hypothesis, plots=left.plots, reasons=left.reasons,
        params={**{name: str(value) for name, value in params.items()},
                **{f"config.{name}": str(value) for name, value in record.config.model_dump(mode="json").items()}},
    )


def data_facts(record: Record) -> dict[str, str]:
    """Which data, in words."""
    cuts = record.cuts
    named = {"training cuts": cuts.train, "test cuts": cuts.test}
    return {
        "dataset version": f"{record.dataset.version} ({len(record.dataset.partitions):,} raw partitions, last load "
                           f"{record.dataset.last_load[:10] or 'unknown'})",
        **{name: ", ".join(f"{cut:%Y-%m-%d}" for cut in dates) for name, dates in named.items()},
        "training rows": f"{record.rows.get('train', 0):,}",
        "training set": f"{record.training_set} (content {record.content[:12]})",
        "features": f"{len(record.contract.features)}, contract {record.contract.fingerprint}",
    }


def provenance_facts(record: Record) -> dict[str, str]:
    """Which code, libraries, machine and seed."""
    made = record.provenance
    return {
        "run": f"{record.run_id} (make reproduce RUN={record.run_id})",
        "code": f"{made.commit or 'no commit'} ({made.git})",
        "lock file": made.lock or "none",
        "libraries": ", ".join(f"{name} {made.libraries[name]}" for name in LIBRARIES if name in made.libraries)
                     or "unknown",
        "python": f"{made.python} on {made.machine}",
        "seed": str(record.config.random_state),
        "seconds": ", ".join(f"{name} {value:.1f}" for name, value in record.timings.items() if "/" not in name),
    }


def version_of(engine: sa.Engine, run_id: str) -> str | None:
    """The version a run's model became, by the ledger; None where it was not promoted."""
    for row in read_decisions(engine, gate="promotion", limit=10_000):
        if row.decision.evidence.get("run_id") == run_id:
            version = row.decision.evidence.get("model_version")
            return None if version is None else str(version)
    return None


def verdicts_about(engine: sa.Engine, record: Record, version: str | None) -> tuple[Verdict, ...]:
    """The ledger's rows about a model, oldest first: its design's, its run's or version's, its release's."""
    subjects = [record.training_set, record.run_id]
    if version is not None:
        released = releases.release_of_version(engine, version)
        subjects += [version, *([released.release_id] if released else [])]
    rows = [row for subject in subjects for row in read_decisions(engine, subject=subject)]
    return tuple(Verdict(row.decision, row.at, row.as_of) for row in sorted(rows, key=lambda row: row.at))


@dataclass(frozen=True)
class _Left:
    """What a run left beside its record; what is missing is empty."""

    evaluation: Evaluation | None
    plots: Mapping[str, bytes]
    reasons: tuple[str, ...]


def _left(run: Run, explanations: int) -> _Left:
    with TemporaryDirectory() as name, store_errors(run.home):
        there = {one.path for one in run.client.list_artifacts(run.run_id)}
        folder = Path(name)
        evaluation = None
        if "evaluation.json" in there:
            path = Path(run.client.download_artifacts(run.run_id, "evaluation.json", name))
            evaluation = Evaluation.from_dict(json.loads(path.read_text(encoding="utf-8")))
        plots = {}
        if "plots" in there:
            run.client.download_artifacts(run.run_id, "plots", name)
            plots = {path.stem: path.read_bytes() for path in sorted((folder / "plots").glob("*.png"))}
        reasons: tuple[str, ...] = ()
        if "payload" in there:
            run.client.download_artifacts(run.run_id, "payload", name)
            reasons = example_reasons(folder / "payload", top=explanations)
    return _Left(evaluation, plots, reasons)


def _under(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def _quality(engine: sa.Engine, last_load: str) -> str | None:
    """The scorecard of the last load the data came with."""
    return next((card.line for card in read_scorecards(engine) if card.as_of.isoformat() == last_load), None)


def example_reasons(payload: Path, *, top: int) -> tuple[str, ...]:
    """Reasons of three golden rows, the highest, middle and lowest score; none where they cannot be had.

    The rows carry no key: nobody is named.
    """
    if top == 0:
        return ()
    try:
        contract = Contract.from_json((payload / "contract.json").read_text(encoding="utf-8"))
        golden = pd.read_parquet(payload / "golden.parquet").sort_values("expected_probability", ascending=False)
        shown = golden.iloc[[0, len(golden) // 2, len(golden) - 1]].reset_index(drop=True)
        background = pd.read_parquet(payload / "reference.parquet")
        found = explain(load_pipeline(payload / "pipeline.skops"), shown, contract, background, top=top)
    except (OSError, ValueError, LookupError, PipelineError):
        return ()
    return tuple(
        f"Scored {probability:.0%}: {'; '.join(reason.text for reason in one.reasons) or 'nothing unusual'}."
        for probability, one in zip(shown["expected_probability"], found, strict=True))
