"""Spoils a file: adds rows that no validator should let pass. The clean rows stay as they are."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta

import numpy as np
import polars as pl

Row = dict[str, str | None]
Spoil = Callable[[Row, np.random.Generator], Row]

NOT_NUMBERS = ("n/a", "free", "12.90 EUR", "NaN")
NOT_DATES = ("31.01.2025 10:00", "2025-02-30 10:00:00", "2024-13-01 00:00:00", "yesterday")
REPEATED = "repeated order_id"


def _ordered_after_arrival(row: Row, rng: np.random.Generator) -> Row:
    ordered = datetime.fromisoformat(str(row["arrived_at"])) + timedelta(hours=int(rng.integers(1, 72)))
    return {"ordered_at": str(ordered)}


# What is wrong with the row, and the fields that make it so.
ORDER_SPOILS: Mapping[str, Spoil] = {
    "negative amount": lambda row, _rng: {"amount": f"-{row['amount']}"},
    "amount not a number": lambda _row, rng: {"amount": str(rng.choice(NOT_NUMBERS))},
    "empty customer_id": lambda _row, _rng: {"customer_id": None},
    "malformed date": lambda _row, rng: {"ordered_at": str(rng.choice(NOT_DATES))},
    "ordered_at after arrived_at": _ordered_after_arrival,
    REPEATED: lambda row, _rng: {"amount": f"1{row['amount']}"},
    "unknown customer": lambda _row, rng: {"customer_id": f"c9{rng.integers(0, 100_000):05d}"},
}
CUSTOMER_SPOILS: Mapping[str, Spoil] = {
    "unknown plan": lambda _row, rng: {"plan": str(rng.choice(("gold", "Premium", "2")))},
    "impossible birth_year": lambda _row, _rng: {"birth_year": "1890"},
    "malformed date": lambda _row, rng: {"updated_at": str(rng.choice(NOT_DATES))},
    "empty customer_id": lambda _row, _rng: {"customer_id": None},
}


def spoil(
    clean: pl.DataFrame,
    spoils: Mapping[str, Spoil],
    *,
    share: float,
    whats: Iterator[str],
    order_numbers: Iterator[int],
    rng: np.random.Generator,
) -> tuple[pl.DataFrame, list[tuple[int, str]]]:
    """Add spoiled copies of rows drawn at random, anywhere in the file.

    A repeated order stands below the one it repeats and arrives at the same time, so whoever keeps the
    first keeps the true one. All other spoiled orders get numbers of their own.

    Args:
        clean: all columns strings, in the order of the file.
        share: spoiled rows to add, as a share of the clean ones.
        whats: keys of `spoils`, endless; goes on from file to file, so small files get all kinds in turn.
        order_numbers: numbers that no order has.

    Returns:
        The file's rows, and (line, what) of each spoiled one, by line; the header is line 1.
    """
    bases = rng.integers(0, clean.height, round(clean.height * share))
    rows: list[Row] = []
    places: list[float] = []
    added: list[str] = []
    for row, base, what in zip(clean[bases].to_dicts(), bases, whats, strict=False):
        if "order_id" in row and what != REPEATED:
            row["order_id"] = f"o{next(order_numbers):07d}"
        rows.append(row | spoils[what](row, rng))
        places.append(rng.integers(base if what == REPEATED else -1, clean.height) + 0.5)
        added.append(what)
    order = np.argsort(np.concatenate([np.arange(clean.height), places]), kind="stable")
    mixed = pl.concat([clean, pl.DataFrame(rows, schema=clean.schema)])[order]
    return mixed, [(line + 2, added[i - clean.height]) for line, i in enumerate(order) if i >= clean.height]
