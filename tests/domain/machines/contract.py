"""Another domain: machines that report readings; predicted is a failure within the horizon."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandera.polars as pa
import polars as pl

from models.contract_schemas import contract_from_schemas

FOLDER: Final = Path(__file__).parent
_MOMENT: Final = pl.Datetime("us", "UTC")


def _meta(role: str, unit: str, **more: object) -> dict[str, object]:
    return {"role": role, "unit": unit, **more}


class Readings(pa.DataFrameModel):
    """What a machine reports."""

    machine_id: str = pa.Field(description="which", metadata=_meta("entity_key", "id"))
    read_at: _MOMENT = pa.Field(description="when", metadata=_meta("event_time", "UTC"))  # type: ignore[valid-type]
    vibration: float = pa.Field(ge=0, le=100, description="strength", metadata=_meta("attribute", "mm/s"))
    heat: float = pa.Field(ge=-50, le=300, description="temperature", metadata=_meta("attribute", "degrees C"))
    status: str = pa.Field(isin=["ok", "failure"], description="state", metadata=_meta("attribute", "state"))


class Snapshot(pa.DataFrameModel):
    """One machine at one cut."""

    machine_id: str = pa.Field(description="which", metadata=_meta("entity_key", "id"))
    event_timestamp: _MOMENT = pa.Field(description="cut", metadata=_meta("event_time", "UTC"))  # type: ignore[valid-type]
    created_timestamp: _MOMENT = pa.Field(description="cut", metadata=_meta("arrival_time", "UTC"))  # type: ignore[valid-type]
    in_use: bool = pa.Field(description="reported lately", metadata=_meta("eligible", "flag"))
    vibration_mean_30d: float = pa.Field(ge=0, nullable=True, description="mean", metadata=_meta(
        "numeric", "mm/s", group="shaking", sign=1, segment=True, reason="shakes at {value} mm/s",
        reason_low="shakes at only {value} mm/s"))
    heat_mean_30d: float = pa.Field(nullable=True, description="mean", metadata=_meta("numeric", "degrees C"))
    readings_30d: pl.Int64 = pa.Field(ge=0, description="how many", metadata=_meta("numeric", "count"))
    failed: bool = pa.Field(description="failure in [cut, cut + horizon)", metadata=_meta("label", "flag"))


RAW_TABLES: Final[dict[str, type[pa.DataFrameModel]]] = {"readings": Readings}
CONTRACT: Final = contract_from_schemas(
    {name: model.to_schema() for name, model in RAW_TABLES.items()}, Snapshot.to_schema(),
    sql={name: (FOLDER / name).read_text(encoding="utf-8") for name in ("snapshot.sql", "labels.sql")},
)
