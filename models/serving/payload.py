"""What a release carries (the folder `release/` inside a Bento), read and checked as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
from pydantic import ValidationError

from models.charter import Charter
from models.contract import Contract
from models.errors import ReleaseError
from models.serving.attribution import Attributor
from models.serving.compiled import CompiledScorer, compile_pipeline
from models.serving.scorer import Policy, check_golden, load_pipeline, plain_rows, predict

MANIFEST_KEYS: Final = ("model_version", "as_of", "fingerprint", "feature_service", "feature_view", "threshold")


@dataclass(frozen=True)
class Payload:
    """A release that scored its golden rows as training did."""

    contract: Contract
    charter: Charter
    manifest: Mapping[str, Any]  # release.json
    policy: Policy
    pipeline: Any
    golden: pd.DataFrame
    scorer: CompiledScorer
    attributor: Attributor | None  # None: the charter promises no explanations

    @property
    def model_version(self) -> str:
        return str(self.manifest["model_version"])


def load_payload(folder: Path) -> Payload:
    """Read a release, compile its scorer, and score its golden rows by every path a request may take.

    Raises:
        ReleaseError: a file is missing or damaged, the fingerprint is not the contract's, the pipeline has a step
            that cannot be compiled, or a golden row scores something else.
    """
    contract = Contract.from_json(_read(folder / "contract.json"))
    manifest = _manifest(folder / "release.json")
    if contract.fingerprint != manifest["fingerprint"]:
        raise ReleaseError(f"release.json names the contract {manifest['fingerprint']}, contract.json is "
                           f"{contract.fingerprint}. Package the release again")
    try:
        charter = Charter.model_validate_json(_read(folder / "charter.json"))
    except ValidationError as error:
        fault = error.errors()[0]
        raise ReleaseError(f"cannot use charter.json: {'.'.join(map(str, fault['loc']))}: {fault['msg']}. Package the "
                           "release again") from None
    policy = Policy.of(charter.value, manifest)
    pipeline = load_pipeline(folder / "pipeline.skops")
    scorer = compile_pipeline(pipeline, contract)
    golden = _table(folder / "golden.parquet", contract)
    check_golden(predict(pipeline, golden, contract), golden)
    rows = plain_rows(golden, contract.feature_names)
    check_golden([scorer.one(row) for row in rows], golden, path="the compiled scorer")
    check_golden(scorer.score_many(rows), golden, path="the compiled scorer for many rows")
    attributor = None
    if charter.requirements.explanations:
        attributor = Attributor.of(pipeline, contract, _table(folder / "reference.parquet", contract))
        attributor.contributions(golden)  # refuses where it explains another model than the one that answers
    return Payload(contract, charter, manifest, policy, pipeline, golden, scorer, attributor)


def _table(path: Path, contract: Contract) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ReleaseError(f"cannot read {path.name}: {type(error).__name__}. Package the release again") from None
    missing = [name for name in contract.feature_names if name not in table]
    if missing:
        raise ReleaseError(f"{path.name} has no {missing[0]!r}, which the contract names. Package the release again")
    return table


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReleaseError(f"cannot read {path.name}: {error.strerror}. Package the release again") from None


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_read(path))
    except json.JSONDecodeError:
        raise ReleaseError(f"cannot read {path.name}: no JSON. Package the release again") from None
    missing = [key for key in MANIFEST_KEYS if manifest.get(key) in (None, "")]
    if missing:
        raise ReleaseError(f"release.json has no {missing[0]}. Package the release again")
    return dict(manifest)
