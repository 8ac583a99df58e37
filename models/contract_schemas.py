"""Reads the data contract off Pandera schemas, by attribute: nothing here imports Pandera, and no Bento carries it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from models.contract import DTYPES, Check, Column, Contract, Dimension, Role, Table
from models.errors import ConfigError


def contract_from_schemas(
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
