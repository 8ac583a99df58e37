"""The design phase as data: what is predicted, what it is worth, and the limits every gate reads.

`charter.yaml` is parsed into one frozen `Charter`; an unknown key, a value out of range or a
combination that makes no sense is refused with the file, the key, the value and the limit.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from models.errors import ConfigError, nearest


class _Section(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A part of the charter: frozen; an unknown key or a number that is none is an error."""


class Problem(_Section):
    """What is predicted, for whom, when."""

    horizon_days: int = Field(gt=0, description="length of the label window [cut, cut + horizon)")
    snapshot_every_months: int = Field(1, gt=0, description="months between training cuts, each a first of a month")
    eligible_within_days: int | None = Field(None, gt=0, description="last event at most so long ago; null: everyone")
    label_delay_days: int = Field(0, ge=0, description="days after the label window until its rows have arrived")
    assumed_delay_days: int = Field(0, ge=0, description="arrival after the event, where no arrival column is mapped")
    first_as_of: datetime | None = Field(None, description="where a simulated clock starts; null: wall time")

    @field_validator("first_as_of")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)

    @model_validator(mode="after")
    def _labels_wait_for_late_rows(self) -> Problem:
        if self.assumed_delay_days > self.label_delay_days:
            raise ValueError(
                f"assumed_delay_days is {self.assumed_delay_days}, at most label_delay_days "
                f"({self.label_delay_days}): else a label is called mature before its rows arrive"
            )
        return self

    @property
    def horizon(self) -> timedelta:
        return timedelta(days=self.horizon_days)

    @property
    def maturity(self) -> timedelta:
        """From a cut until its label is mature: horizon + label delay."""
        return timedelta(days=self.horizon_days + self.label_delay_days)


class Value(_Section):
    """What a prediction is worth; money in the currency of the orders."""

    customers: int = Field(gt=0, description="customers the business case counts with")
    monthly_churners: int = Field(gt=0)
    share_found: float = Field(gt=0, le=1, description="share of churners the model is expected to find")
    share_who_stay: float = Field(gt=0, le=1, description="share of contacted churners who stay")
    worth_of_saved: float = Field(gt=0, description="money a saved customer brings a month")
    cost_of_contact: float = Field(0, ge=0)
    contact_budget: int = Field(gt=0, description="customers that may be contacted at one cut")
    holdout_share: float = Field(0.05, ge=0, lt=1, description="never contacted, to keep the measurement honest")

    @property
    def monthly(self) -> float:
        """Money a month by the charter's own claim: churners x found x stay x worth."""
        return self.monthly_churners * self.share_found * self.share_who_stay * self.worth_of_saved


class Requirements(_Section):
    """What the business asks of the service and of the data."""

    max_feature_age_days: float = Field(35, gt=0, description="older features: the answer is marked degraded")
    max_data_age_days: float = Field(7, gt=0, description="an older newest event: the feed has stopped")
    max_bad_share: float = Field(0.05, gt=0, lt=1, description="more bad rows than this: the whole batch is refused")
    least_row_share: float = Field(0.2, ge=0, lt=1, description="fewer new rows than this share of what earlier loads "
                                   "brought per day: the whole batch is refused; 0: never")
    keep_quarantine_days: float = Field(365, gt=0, description="the text of bad rows loaded before: retention drops it")
    max_missing_days: float | None = Field(None, ge=0, description="more days in a row without an event: the whole "
                                           "batch is refused; null: as max_data_age_days")
    max_late_share: float = Field(0.05, ge=0, le=1, description="more rows that are learnt of after the label delay "
                                  "(or a day, if that is longer): shown; refusing would not make them punctual")


class Training(_Section):
    """How much history a model needs, and how it is split."""

    train_cuts: int = Field(6, gt=0, description="latest training cuts used")
    least_rows: int = Field(500, gt=0, description="mature training labels needed")
    least_churners: int = Field(50, gt=0, description="churned and kept rows needed, each, in training and in test")


class PromotionGate(_Section):
    """Limits of champion against candidate."""

    least_auc: float = Field(0.6, gt=0.5, lt=1)
    max_brier: float = Field(0.25, gt=0, le=1)
    least_test_rows: int = Field(200, gt=0)
    margin: float = Field(0, ge=0, description="money a cut the interval's lower end must exceed")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(1000, ge=100)


class Rollout(_Section):
    """Limits of a canary."""

    strategy: Literal["basic", "canary"] = "canary"
    stages: tuple[float, ...] = Field((0.05, 0.25, 0.5), min_length=1, description="canary's share of customers")
    least_customers: int = Field(100, gt=0, description="customers each arm must have answered before a stage ends")
    time_limit_minutes: float = Field(24 * 60, gt=0, description="a stage without enough evidence by then: roll back")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of ever rolling back a harmless canary")
    max_error_ratio: float = Field(1.2, ge=1, description="errors per customer, canary over champion, that matter")
    max_error_excess: float = Field(0.05, gt=0, lt=1, description="share of the canary's customers with an error "
                                    "above the champion's that non-inferiority must exclude; without any error "
                                    "0.05 takes 84 canary customers, 0.02 takes 245")
    kill_error_share: float = Field(0.2, gt=0, le=1, description="canary errors at once above this: roll back")
    kill_least_requests: int = Field(50, gt=0)

    @field_validator("stages")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)) or value[0] <= 0 or value[-1] >= 1:
            raise ValueError(f"stages are {list(value)}; they must rise strictly within (0, 1)")
        return value


class DriftPolicy(_Section):
    """When a check flags, and when flags are enough to act."""

    false_discovery_rate: float = Field(0.05, gt=0, lt=1, description="Benjamini-Hochberg level over the columns")
    least_psi: float = Field(0.02, gt=0, description="quantile PSI below which a difference is harmless")
    least_share_change: float = Field(0.02, gt=0, lt=1, description="absolute change of missing or new-category share")
    least_importance: float = Field(0.02, ge=0, lt=1, description="share of the model's importance a column must "
                                    "carry for its drift to count towards acting")
    flags_to_act: int = Field(2, gt=0)
    of_checks: int = Field(3, gt=0, description="distinct as_of looked back on")
    least_rows: int = Field(200, gt=0)
    cooldown_days: int = Field(25, ge=0, description="days (of the platform clock) between two retrainings")
    decision_valid_days: int = Field(31, gt=0, description="a retrain decision older than this is refused")

    @model_validator(mode="after")
    def _k_of_n(self) -> DriftPolicy:
        if self.flags_to_act > self.of_checks:
            raise ValueError(f"flags_to_act is {self.flags_to_act}, at most of_checks ({self.of_checks})")
        return self


class Charter(_Section):
    """The whole design phase; every gate reads its limits here."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")
    problem: Problem
    value: Value
    requirements: Requirements = Requirements()
    training: Training = Training()
    promotion: PromotionGate = PromotionGate()
    rollout: Rollout = Rollout()
    drift: DriftPolicy = DriftPolicy()
    owners: dict[str, str] = Field(default_factory=dict, description="gate -> role that owns its alarms")


def load_charter(path: Path) -> Charter:
    """Read a charter.

    Raises:
        ConfigError: the file is missing, no YAML mapping, has an unknown key, or a value out of range.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"cannot read the charter: {path} does not exist. Set CHURN_CHARTER to a file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the charter {path}: no YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(document, dict):
        raise ConfigError(f"cannot read the charter {path}: it holds {type(document).__name__}, not a mapping of keys")
    try:
        return Charter.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"cannot use the charter {path}: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    # A misspelt key shows as a missing and an unknown one: the unknown one is what to mend.
    fault = next((one for one in error.errors() if one["type"] == "extra_forbidden"), error.errors()[0])
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        section: Any = Charter
        for part in fault["loc"][:-1]:
            section = section.model_fields[str(part)].annotation
        return f"unknown key {key!r}; {nearest(str(fault['loc'][-1]), section.model_fields)}"
    seen = "" if fault["type"] == "missing" else f" is {fault['input']!r}:"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{key}{seen} {fault['msg'].removeprefix('Value error, ')}{more}"
