"""The limits the gates read: a section of the charter each; `models.charter` puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

PartName = Literal["ingest", "features", "score", "ship", "monitor", "labels"]
# All of them run each night: two hours are left for a night in which a run takes long.
SILENCE_HOURS: Final[Mapping[PartName, float]] = {
    "ingest": 26, "features": 26, "score": 26, "ship": 26, "monitor": 26, "labels": 26}


class Section(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A part of the charter: frozen; an unknown key or a number that is none is an error."""


class PromotionGate(Section):
    """Limits of champion against candidate."""

    least_auc: float = Field(0.6, gt=0.5, lt=1)
    max_brier: float = Field(0.25, gt=0, le=1)
    least_test_rows: int = Field(200, gt=0)
    margin: float = Field(0, ge=0, description="money a cut the interval's lower end must exceed")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(1000, ge=100)
    calibration_slope: tuple[float, float] = Field((0.5, 2.0), description="least and greatest slope of the outcome "
                                                   "on the score, both as log-odds; 1 is calibrated")
    max_segment_loss: float = Field(0.02, ge=0, lt=0.5, description="AUC that may surely be lost to the champion in "
                                    "any segment")
    least_segment_auc: float = Field(0.5, gt=0, lt=1, description="a first model that is surely below it in any "
                                     "segment is refused")
    least_segment_rows: int = Field(100, gt=0, description="rows of a segment, or of a level of a protected column, "
                                    "that is judged")
    least_segment_churners: int = Field(20, gt=0, description="churned and kept rows of it, each")
    max_contact_gap: float = Field(0.25, gt=0, le=1, description="share contacted, between any two levels of a "
                                   "protected column")
    max_found_gap: float = Field(0.25, gt=0, le=1, description="share of churners found, between any two levels of "
                                 "a protected column")
    max_scoring_ms: float = Field(0.5, gt=0, description="CPU milliseconds a row, median of repeated predictions "
                                  "of a batch")

    @field_validator("calibration_slope")
    @classmethod
    def _around_one(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= 1 <= value[1]:
            raise ValueError(f"calibration_slope is {list(value)}; it must hold 1, and its lower end be above 0")
        return value


class Rollout(Section):
    """Limits of a shadow and of a canary."""

    strategy: Literal["basic", "shadow", "canary"] = "canary"
    shadow_first: bool = Field(False, description="a canary is a shadow before it gets its first customers")
    judge_silence_minutes: float = Field(15, gt=0, description="an open shadow or canary at which the judge has not "
                                         "looked for so long is rolled back by the watchdog")
    stages: tuple[float, ...] = Field((0.05, 0.25, 0.5), min_length=1, description="canary's share of customers")
    least_customers: int = Field(100, gt=0, description="customers each arm must have answered before a stage ends")
    time_limit_minutes: float = Field(24 * 60, gt=0, description="a stage without enough evidence by then: roll back")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of ever rolling back a harmless canary")
    max_error_ratio: float = Field(1.2, ge=1, description="a canary whose customers fail, or are refused, up to this "
                                   "many times as often as the champion's is harmless")
    max_error_excess: float = Field(0.05, gt=0, lt=1, description="share of the canary's customers with an error "
                                    "above the champion's that non-inferiority must exclude; without any error "
                                    "0.05 takes 84 canary customers, 0.02 takes 245")
    max_latency_ratio: float = Field(1.2, ge=1, description="a canary up to this many times as slow is harmless")
    max_latency_ms: float = Field(1.0, ge=0, description="so is one slower by up to this: with little traffic the same "
                                  "release answers a millisecond later than with much")
    max_slow_excess: float = Field(0.1, gt=0, lt=1, description="share of canary customers slower than the ratio "
                                   "allows, above the champion's, that non-inferiority must exclude")
    max_skew_logit: float = Field(0.05, gt=0, description="difference of an online from the release's own batch score "
                                  "of the same row above which the two are apart, in logits")
    max_skew_share: float = Field(0.05, gt=0, lt=1, description="share of customers whose scores may be apart")
    max_score_gap: float = Field(0.05, gt=0, lt=1, description="difference of the mean online and batch score: more "
                                 "rolls back at once")
    max_sample_ratio: float = Field(1.1, ge=1, description="how far the odds of getting the canary may be from those "
                                    "dealt")
    max_missing_share: float = Field(0.02, gt=0, lt=1, description="answered requests that may lack a line in the "
                                     "prediction log, or a shadow's answer")
    kill_error_share: float = Field(0.2, gt=0, le=1, description="canary errors at once above this: roll back")
    kill_least_requests: int = Field(50, gt=0)

    @field_validator("stages")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)) or value[0] <= 0 or value[-1] >= 1:
            raise ValueError(f"stages are {list(value)}; they must rise strictly within (0, 1)")
        return value


class Alarms(Section):
    """When silence is an alarm. In time the platform ran: while it was down, or its machine slept, nothing was due."""

    silence_hours: dict[PartName, float] = Field(default_factory=dict, description="part -> hours without its work "
                                                 "after which an alarm is raised; those not named keep their default")
    champion_silence_minutes: float = Field(5, gt=0, description="minutes in which the champion was asked and answered "
                                            "nothing")
    least_asked: int = Field(3, gt=0, description="requests in these minutes below which nothing can be said")

    @field_validator("silence_hours")
    @classmethod
    def _above_zero(cls, value: dict[str, float]) -> dict[str, float]:
        for name, hours in value.items():
            if not hours > 0:
                raise ValueError(f"{name} has {hours:g} hours; they must be above 0")
        return value

    def hours(self, part: PartName) -> float:
        """Hours a part may be silent."""
        return self.silence_hours.get(part, SILENCE_HOURS[part])


class Bake(Section):
    """Limits of the horizon after a promotion, in which the champion and the release before it are compared."""

    max_brier_excess: float = Field(0.005, gt=0, lt=1, description="mean Brier loss above the previous release's: "
                                    "shown, it is recommended to roll back; excluded, the champion is baked")
    least_customers: int = Field(200, gt=0, description="customers with mature labels, scored by both")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of ever recommending to roll back a champion whose "
                         "excess is within the limit, and of ever baking one whose excess is beyond it")


class Monitoring(Section):
    """Limits of what is judged once labels are mature."""

    least_label_coverage: float = Field(0.9, gt=0, le=1, description="share of a mature cohort's customers that must "
                                        "have a label: with fewer the label feed is at fault, and nothing is judged")
    least_auc: float | None = Field(None, gt=0.5, lt=1, description="AUC of a mature cohort surely below it is an "
                                    "alarm; null: promotion.least_auc")
    max_brier: float | None = Field(None, gt=0, le=1, description="Brier score of a mature cohort surely above it is "
                                    "an alarm; null: promotion.max_brier")
    least_customers: int = Field(200, gt=0, description="customers with mature labels, whom nobody contacted, that a "
                                 "cohort must have to be judged")


class Concept(Section):
    """When mature labels say that customers behave otherwise than the model learnt."""

    brier_tolerance: float = Field(0.005, gt=0, lt=1, description="mean Brier excess above that of the release's own "
                                   "test rows that a month may have without a change")
    months_between_false_alarms: float = Field(60, ge=1, description="on average at least, while nothing changes")


class DriftPolicy(Section):
    """When a check flags, and when flags are enough to act."""

    false_discovery_rate: float = Field(0.05, gt=0, lt=1, description="Benjamini-Hochberg level over the columns")
    least_psi: float = Field(0.02, gt=0, description="quantile PSI below which a difference is harmless")
    least_joint_psi: float = Field(0.1, gt=0, description="quantile PSI of all columns together, each by what it does "
                                   "not share with the others, from which small differences of many columns are large")
    least_share_change: float = Field(0.02, gt=0, lt=1, description="absolute change of missing or new-category share")
    least_importance: float = Field(0.02, ge=0, lt=1, description="share of the model's importance a column must "
                                    "carry for its drift to count towards acting; lighter ones together ten times as "
                                    "much, at most half")
    flags_to_act: int = Field(2, gt=0)
    of_checks: int = Field(3, gt=0, description="checks looked back on")
    days_between_flags: int = Field(7, ge=0, description="days (of the platform clock) between two checks that both "
                                    "count towards of_checks: nearly the same customers flagged again prove nothing")
    least_rows: int = Field(200, gt=0)
    least_quality: float = Field(0.9, ge=0, le=1, description="overall quality score of a load; below it what moved "
                                 "is no drift but bad data, and nothing is retrained on it")
    cooldown_days: int = Field(25, ge=0, description="days (of the platform clock) between two retrainings")
    retrainings_a_month: int = Field(2, ge=0, description="retrainings begun within 30 days (of the platform clock) by "
                                     "themselves, at most; failed ones count; 0: none is begun")
    decision_valid_days: int = Field(31, gt=0, description="a retrain decision older than this is refused")

    @model_validator(mode="after")
    def _k_of_n(self) -> DriftPolicy:
        if self.flags_to_act > self.of_checks:
            raise ValueError(f"flags_to_act is {self.flags_to_act}, at most of_checks ({self.of_checks})")
        return self
