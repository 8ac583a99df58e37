"""The data contract as a plain value: what each table and feature is called, means and must satisfy.

`feature_repo/contract.py` says it once, as Pandera models, which `models.contract_schemas` reads; a Bento carries it as
JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Final, Literal

from models.errors import ConfigError

Role = Literal[
    "entity_key", "row_key", "event_time", "arrival_time", "attribute", "numeric", "categorical", "eligible", "label"
]
Dimension = Literal["accuracy", "completeness", "consistency", "timeliness"]
DTYPES: Final = ("string", "int64", "float64", "decimal", "timestamp", "bool")
FEATURE_ROLES: Final = ("numeric", "categorical")
PRESENTATION: Final = ("group", "segment", "sign", "reason", "reason_low")  # said of a column, computed by nothing


@dataclass(frozen=True)
class Check:
    """One rule of a column: its dimension of data quality (DAMA) and the wording of its reason.

    A rule over several columns of a table stands at the one it blames.
    """

    name: str
    dimension: Dimension
    wording: str


@dataclass(frozen=True)
class Column:
    """A column: its type is one of `DTYPES`, its unit a word ("days", "currency", "count", ...)."""

    name: str
    dtype: str
    role: Role
    unit: str
    description: str
    nullable: bool = False
    required: bool = True  # of a raw column: a source must map it
    table: str | None = None  # of a feature: the optional raw table it cannot do without
    references: str | None = None  # of a raw column: the table whose entity key it must find
    not_before: str | None = None  # of a raw column: TABLE.COLUMN of the row it refers to, never later than this one
    ages: bool = False  # of a feature: grows with the age of the data, so that its drift is no news
    owner: str = ""  # of a feature: the role that answers for its meaning
    group: str = ""  # of a feature: what it is made with; groups are added one by one to see what each is worth
    segment: bool = False  # of a feature: scores are also reported for each of its values (or quarters)
    sign: int = 0  # of a feature: +1 more of it means more churn, -1 less; 0 is not stated
    reason: str = ""  # of a feature: in words, where it is high; {value} stands for it
    reason_low: str = ""  # of a feature: in words, where it is low
    minimum: float | None = None  # least value allowed, where there is one
    categories: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


_DEFAULTS: Final = {one.name: one.default for one in fields(Column) if one.default is not MISSING}


@dataclass(frozen=True)
class Table:
    """A raw table; without an optional one its features leave the effective contract."""

    name: str
    optional: bool
    columns: tuple[Column, ...]

    def column(self, role: Role) -> Column | None:
        """The first column of a role, or None."""
        return next((column for column in self.columns if column.role == role), None)


@dataclass(frozen=True)
class Contract:
    """Tables, snapshot columns and SQL; everything downstream follows from this value."""

    entity_key: str
    label: str
    tables: tuple[Table, ...]
    snapshot: tuple[Column, ...]
    sql: Mapping[str, str]
    parameters: Mapping[str, int | None] = field(default_factory=dict)  # the charter's, which the SQL uses by name
    absent: tuple[str, ...] = ()  # optional tables the source lacks; the SQL finds them empty
    contacts: str | None = None  # the optional table that says who was contacted, and when

    @property
    def present(self) -> tuple[Table, ...]:
        """The tables the source has."""
        return tuple(table for table in self.tables if table.name not in self.absent)

    @cached_property
    def features(self) -> tuple[Column, ...]:
        """The model's inputs, in the one order used everywhere."""
        return tuple(column for column in self.snapshot if column.role in FEATURE_ROLES)

    @property
    def feature_names(self) -> list[str]:
        return [column.name for column in self.features]

    @property
    def numeric(self) -> list[str]:
        return [column.name for column in self.features if column.role == "numeric"]

    @property
    def categorical(self) -> list[str]:
        return [column.name for column in self.features if column.role == "categorical"]

    @property
    def eligible(self) -> str:
        """The snapshot's flag of who may be scored for action."""
        return next(column.name for column in self.snapshot if column.role == "eligible")

    def table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits over names, types, roles, checks, units and the bytes of the SQL.

        How a column is presented is left out: a reworded reason is no other feature view. So is who was contacted,
        unless the SQL reads it: that says which rows count, not what they hold.
        """
        aside = self.contacts
        if aside and not any(re.search(rf"\b{re.escape(aside)}\b", re.sub(r"--[^\n]*", "", text))
                             for text in self.sql.values()):
            features = replace(self, tables=tuple(table for table in self.tables if table.name != aside),
                               absent=tuple(name for name in self.absent if name != aside), contacts=None)
            return features.fingerprint
        return hashlib.sha256(self._json(without=PRESENTATION).encode()).hexdigest()[:12]

    @property
    def view_name(self) -> str:
        """The Feast feature view of exactly this contract."""
        return f"features_{self.fingerprint}"

    @property
    def service_name(self) -> str:
        """The Feast feature service of exactly this contract."""
        return f"churn_{self.fingerprint}"

    def effective(self, present: Iterable[str], **parameters: int | None) -> Contract:
        """The contract of a source that has only the tables `present`, with the charter's parameters of the SQL.

        Raises:
            ConfigError: a table that is not optional is missing.
        """
        have = set(present)
        missing = [table.name for table in self.tables if not table.optional and table.name not in have]
        if missing:
            raise ConfigError(f"the sources have no table {missing[0]!r}, which the contract needs; map it in the "
                              "sources file")
        absent = {table.name for table in self.tables} - have
        kept = tuple(column for column in self.snapshot if column.table not in absent)
        return replace(self, snapshot=kept, absent=tuple(sorted(absent)), parameters=parameters)

    def to_json(self) -> str:
        """What a release carries. A field that holds its default is left out: a field that columns get one day must
        not rename the contract, and with it the feature view, of a release that serves.
        """
        return self._json()

    def _json(self, *, without: tuple[str, ...] = ()) -> str:
        raw = asdict(self)
        for column in [*raw["snapshot"], *(column for table in raw["tables"] for column in table["columns"])]:
            for name in [name for name, default in _DEFAULTS.items() if column[name] == default or name in without]:
                del column[name]
        if self.contacts is None:
            del raw["contacts"]
        return json.dumps(raw, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Contract:
        raw = json.loads(text)
        return Contract(
            entity_key=raw["entity_key"],
            label=raw["label"],
            tables=tuple(
                Table(table["name"], table["optional"], tuple(_column(column) for column in table["columns"]))
                for table in raw["tables"]
            ),
            snapshot=tuple(_column(column) for column in raw["snapshot"]),
            sql=raw["sql"],
            absent=tuple(raw["absent"]),
            parameters=raw["parameters"],
            contacts=raw.get("contacts"),
        )


def _column(raw: Mapping[str, Any]) -> Column:
    values = dict(raw)
    values["categories"] = tuple(values.get("categories", ()))
    values["checks"] = tuple(Check(**check) for check in values.get("checks", ()))
    return Column(**values)
