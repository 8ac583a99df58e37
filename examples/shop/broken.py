"""A delivery that broke on its way: `python -m examples.shop.broken orders/2025-02.csv landing/orders/2025-02.csv`.

A part of the orders carries its amount in words, as an export does whose settings were changed. More of them than any
limit for bad rows: the whole delivery is to be refused, and the next one brings the rows as they should be.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import polars as pl

SHARE = 0.3  # of the rows
COLUMN = "amount"


def write_broken(clean: Path, to: Path, *, share: float = SHARE, seed: int = 7) -> int:
    """Write `clean` with the amounts of a share of its rows spoiled; the same call gives the same bytes.

    Args:
        clean: a file of orders as `examples.shop.files` writes it.
        to: may be `clean` itself.
        share: in (0, 1].

    Returns:
        How many rows were spoiled.

    Raises:
        ValueError: no share of the rows, or a file without amounts.
    """
    if not 0 < share <= 1:
        raise ValueError(f"cannot break a delivery with share={share}: it is above 0 and at most 1")
    rows = pl.read_csv(clean, infer_schema=False)
    if COLUMN not in rows.columns:
        raise ValueError(f"cannot break {clean}: it has no column {COLUMN!r} ({', '.join(rows.columns)})")
    spoiled = np.random.default_rng([seed, rows.height]).random(rows.height) < share
    broken = rows.with_columns(pl.when(pl.Series(spoiled)).then(pl.format("{} EUR", COLUMN)).otherwise(COLUMN)
                               .alias(COLUMN))
    to.parent.mkdir(parents=True, exist_ok=True)
    beside = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    broken.write_csv(beside)
    beside.rename(to)
    return int(spoiled.sum())


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(prog="python -m examples.shop.broken", description=__doc__)
    parser.add_argument("clean", type=Path, help="a file of orders")
    parser.add_argument("to", type=Path, help="where the broken one goes")
    parser.add_argument("--share", type=float, default=SHARE, help="of its rows (default: %(default)s)")
    given = parser.parse_args()
    try:
        count = write_broken(given.clean, given.to, share=given.share)
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{count:,} rows of {given.to} are broken")


if __name__ == "__main__":
    main()
