"""The design phase as data: what is predicted, what it is worth, and the limits every gate reads.

`charter.yaml` is parsed into one frozen `Charter`; an unknown key, a value out of range or a
combination that makes no sense is refused with the file, the key, the value and the limit.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from models.errors import ConfigError, nearest
from models.limits import Alarms, Bake, Concept, DriftPolicy, Monitoring, PromotionGate, Rollout, Section
from models.team import DEFAULT_OWNERS, DEFAULT_TEAM, KeyMetricName


class Problem(Section):
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


class Value(Section):
    """What a prediction is worth; money in the currency of the orders."""

    customers: int = Field(gt=0, description="customers the business case counts with")
    monthly_churners: int = Field(gt=0)
    share_found: float = Field(gt=0, le=1, description="share of churners the model is expected to find")
    share_who_stay: float = Field(gt=0, le=1, description="share of contacted churners who stay")
    price_a_month: float | None = Field(None, gt=0, description="what a customer pays without an offer")
    discounted_price: float | None = Field(None, gt=0, description="what a customer who takes the offer pays a month; "
                                           "then it is what a saved one brings")
    worth_of_saved: float = Field(gt=0, description="money a saved customer brings a month; unless discounted_price "
                                  "says it")
    cost_of_contact: float = Field(0, ge=0)
    contact_budget: int = Field(gt=0, description="customers that may be contacted at one cut")
    holdout_share: float = Field(0.05, ge=0, lt=1, description="never contacted, to keep the measurement honest")

    @model_validator(mode="before")
    @classmethod
    def _worth_is_the_discounted_price(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("discounted_price") is not None and "worth_of_saved" not in given:
            return {**given, "worth_of_saved": given["discounted_price"]}
        return given

    @model_validator(mode="after")
    def _prices_agree(self) -> Value:
        price, discounted = self.price_a_month, self.discounted_price
        if discounted is not None and discounted != self.worth_of_saved:
            raise ValueError(f"worth_of_saved is {self.worth_of_saved:g} and discounted_price {discounted:g}: what a "
                             "saved customer brings is said twice; leave one out")
        if price is not None and discounted is not None and discounted > price:
            raise ValueError(f"discounted_price is {discounted:g}, at most price_a_month ({price:g})")
        return self

    @property
    def saved(self) -> float:
        """Customers saved a month by the charter's own claim: churners x found x stay."""
        return self.monthly_churners * self.share_found * self.share_who_stay

    @property
    def monthly(self) -> float:
        """Money a month by the charter's own claim, contacts not yet paid: saved customers x worth."""
        return self.saved * self.worth_of_saved

    @property
    def at_stake(self) -> float | None:
        """Money a month that goes with the churners at full price; None where no price is stated."""
        return None if self.price_a_month is None else self.monthly_churners * self.price_a_month


class Requirements(Section):
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
    protected: tuple[str, ...] = Field((), description="features whose levels the gate compares: who is contacted, "
                                       "and which churners are found")
    explanations: int = Field(3, ge=0, description="strongest reasons shown with a score; 0: none")
    compliance: tuple[str, ...] = Field((), description="what law and policy ask, a sentence each; in the model card")
    running_cost_a_month: float = Field(0, ge=0, description="what running the pipeline costs, contacts apart")
    budget_a_month: float | None = Field(None, gt=0, description="what contacts and running may cost; null: no limit")


class Training(Section):
    """How much history a model needs, and how it is split."""

    train_cuts: int = Field(6, gt=0, description="latest training cuts used")
    least_rows: int = Field(500, gt=0, description="mature training labels needed")
    least_churners: int = Field(50, gt=0, description="churned and kept rows needed, each, in training and in test")
    max_single_auc: float = Field(0.99, gt=0.5, lt=1, description="AUC of one feature, or of a pair, above which it is "
                                  "taken for a leak of the label, and training is refused")
    cost_of_retraining: float = Field(0, ge=0, description="money a retraining costs: machines, and who looks at it")


class Charter(Section):
    """The whole design phase; every gate reads its limits here."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")
    problem: Problem
    value: Value
    requirements: Requirements = Requirements()
    training: Training = Training()
    promotion: PromotionGate = PromotionGate()
    rollout: Rollout = Rollout()
    alarms: Alarms = Alarms()
    bake: Bake = Bake()
    monitoring: Monitoring = Monitoring()
    drift: DriftPolicy = DriftPolicy()
    concept: Concept = Concept()
    team: dict[str, str] = Field(default_factory=dict, description="role -> what it answers for; none: the default one")
    owners: dict[str, str] = Field(default_factory=dict, description="gate, alarm or deployment -> role that owns it")
    metrics: dict[str, dict[KeyMetricName, float]] = Field(default_factory=dict, description="role -> key metric -> "
                                                           "level it asks for")

    @property
    def roles(self) -> dict[str, str]:
        """The team: role -> what it answers for."""
        return self.team or dict(DEFAULT_TEAM)

    def owner(self, name: str) -> str:
        """The role that owns a gate, an alarm or a deployment.

        Raises:
            ConfigError: nobody owns it.
        """
        role = self.owners.get(name) or DEFAULT_OWNERS.get(name)
        if role is None:
            raise ConfigError(f"nobody owns {name!r}: name a role under owners in the charter")
        return role

    @property
    def contacts_a_month(self) -> float:
        """Customers contacted a month when every cut spends its budget."""
        return self.value.contact_budget / self.problem.snapshot_every_months

    @property
    def cost_a_month(self) -> float:
        """Money a month for contacts and for running."""
        return self.contacts_a_month * self.value.cost_of_contact + self.requirements.running_cost_a_month

    @property
    def claim_a_month(self) -> float:
        """Money a month the charter claims once the contacts are paid: what a measured value compares with."""
        return self.value.monthly - self.contacts_a_month * self.value.cost_of_contact


def load_charter(path: Path) -> Charter:
    """Read a charter.

    Raises:
        ConfigError: the file is missing, no YAML mapping, has an unknown key, or a value out of range; or its parts
            contradict each other. A released `charter.json` is not asked the last: it was accepted once.
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
        charter = Charter.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"cannot use the charter {path}: {_first_fault(error)}") from None
    contradiction = _contradiction(charter)
    if contradiction:
        raise ConfigError(f"cannot use the charter {path}: {contradiction}")
    return charter


def _contradiction(charter: Charter) -> str | None:
    """The first statement of a charter that another one of it denies."""
    value = charter.value
    for name in ("contact_budget", "monthly_churners"):
        if getattr(value, name) > value.customers:
            return (f"value.{name} is {getattr(value, name):,}, at most value.customers ({value.customers:,}). Lower "
                    "it, or count the customers again")
    for name in charter.owners:
        if name not in DEFAULT_OWNERS:
            return f"owners.{name} is no gate, alarm or deployment; {nearest(name, DEFAULT_OWNERS)}"
    for name in DEFAULT_OWNERS:
        if charter.owner(name) not in charter.roles:
            return (f"{name} is owned by {charter.owner(name)!r}, who is not in the team "
                    f"({', '.join(charter.roles)}). Add the role to team, or name another one under owners")
    for role in charter.metrics:
        if role not in charter.roles:
            return f"metrics.{role}: not in the team; {nearest(role, charter.roles)}"
    return None


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
