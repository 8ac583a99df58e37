"""The data contract as a plain value: what each table and feature is called, means and must satisfy.

`feature_repo/contract.py` says it once, as Pandera models; `Contract.from_schemas` reads those by
attribute, so nothing here imports Pandera, and a Bento can carry the contract as JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Final, Literal, get_args

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

    @property
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

    @staticmethod
    def from_schemas(
        tables: Mapping[str, Any], snapshot: Any, *, sql: Mapping[str, str], optional: Iterable[str] = (),
        contacts: str | None = None,
    ) -> Contract:
        """Build the contract from Pandera schemas (`Model.to_schema()`), read by attribute.

        `optional` names the raw tables a source may lack, `contacts` the one of them that says who was contacted.

        Raises:
            ConfigError: a column lacks its role, unit or description, or has a type outside `DTYPES`; the table of
                contacts is not optional, or says not who or when.
        """
        lackable = set(optional)
        raw = tuple(Table(name, name in lackable, _columns(name, schema)) for name, schema in tables.items())
        columns = _columns("snapshot", snapshot)
        if contacts is not None:
            _check_contacts(contacts, raw)
        return Contract(
            entity_key=next(column.name for column in columns if column.role == "entity_key"),
            label=next(column.name for column in columns if column.role == "label"),
            tables=raw,
            snapshot=tuple(column for column in columns if column.role != "label"),
            sql=dict(sql),
            contacts=contacts,
        )


def _check_contacts(name: str, tables: Iterable[Table]) -> None:
    table = next((one for one in tables if one.name == name), None)
    if table is None or not table.optional or not (table.column("entity_key") and table.column("event_time")):
        raise ConfigError(f"the table of contacts is {name!r}; it must be optional, with an entity key and an event "
                          "time")


def _column(raw: Mapping[str, Any]) -> Column:
    values = dict(raw)
    values["categories"] = tuple(values.get("categories", ()))
    values["checks"] = tuple(Check(**check) for check in values.get("checks", ()))
    return Column(**values)


def _columns(table: str, schema: Any) -> tuple[Column, ...]:
    return tuple(_from_pandera(table, name, column) for name, column in schema.columns.items())


def _from_pandera(table: str, name: str, column: Any) -> Column:
    metadata = column.metadata or {}
    role: Any = metadata.get("role")
    if role not in get_args(Role):
        raise ConfigError(f"column {table}.{name} has the role {role!r}; known: {', '.join(get_args(Role))}")
    if not metadata.get("unit") or not column.description:
        raise ConfigError(f"column {table}.{name} needs a unit and a description in feature_repo/contract.py")
    checks = [_check(table, name, check, metadata) for check in column.checks]
    if not column.nullable:
        checks.append(Check("not_nullable", "completeness", f"{name} is missing"))
    references, not_before = metadata.get("references"), metadata.get("not_before")
    if references:
        checks.append(Check("references", "consistency", f"{name} is unknown to {references}"))
    if not_before:
        checks.append(Check("not_before", "consistency", f"{name} is before {not_before}"))
    categories = next((list(check.statistics["allowed_values"]) for check in column.checks if check.name == "isin"), [])
    return Column(
        name=name,
        dtype=_dtype(table, name, str(column.dtype)),
        role=role,
        unit=metadata["unit"],
        description=column.description,
        nullable=bool(column.nullable),
        required=bool(metadata.get("required", True)),
        table=metadata.get("table"),
        references=references,
        not_before=not_before,
        ages=bool(metadata.get("ages")),
        owner=metadata.get("owner", ""),
        group=metadata.get("group", ""),
        segment=bool(metadata.get("segment")),
        sign=_sign(table, name, metadata.get("sign", 0)),
        reason=metadata.get("reason", ""),
        reason_low=metadata.get("reason_low", ""),
        minimum=next((float(check.statistics["min_value"]) for check in column.checks
                      if "min_value" in check.statistics), None),
        categories=tuple(categories),
        checks=tuple(checks),
    )


def _sign(table: str, name: str, sign: Any) -> int:
    if sign not in (-1, 0, 1):
        raise ConfigError(f"column {table}.{name} has the sign {sign!r}; known: 1 (more of it, more churn), -1, 0 (not "
                          "stated)")
    return int(sign)


def _check(table: str, name: str, check: Any, metadata: Mapping[str, Any]) -> Check:
    """A rule of its own says its dimension as `title` and its wording as `description`; others follow the field's."""
    identifier = str(check.error or check.name)
    dimension: Any = check.title or metadata.get("dimension", "accuracy")
    if dimension not in get_args(Dimension):
        raise ConfigError(f"check {identifier} of {table}.{name} has the dimension {dimension!r}; known: "
                          f"{', '.join(get_args(Dimension))}")
    return Check(identifier, dimension, check.description or metadata.get("wording") or f"{name} is not {identifier}")


def _dtype(table: str, name: str, dtype: str) -> str:
    text = dtype.lower()
    for prefix, known in (
        ("string", "string"), ("int64", "int64"), ("float64", "float64"), ("decimal", "decimal"),
        ("datetime", "timestamp"), ("bool", "bool"),
    ):
        if text.startswith(prefix):
            return known
    raise ConfigError(f"column {table}.{name} has the type {dtype}; known: {', '.join(DTYPES)}")
