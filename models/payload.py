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
from models.scorer import Policy, check_golden, load_pipeline

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

    @property
    def model_version(self) -> str:
        return str(self.manifest["model_version"])


def load_payload(folder: Path) -> Payload:
    """Read a release and score its golden rows.

    Raises:
        ReleaseError: a file is missing or damaged, the fingerprint is not the contract's, or a golden
            row scores something else.
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
    try:
        golden = pd.read_parquet(folder / "golden.parquet")
    except (OSError, ValueError) as error:
        raise ReleaseError(f"cannot read golden.parquet: {type(error).__name__}. Package the release again") from None
    check_golden(pipeline, golden, contract)
    return Payload(contract, charter, manifest, policy, pipeline, golden)


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
