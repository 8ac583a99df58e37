"""CDNOW's master file as CSV: `python -m examples.cdnow.convert CDNOW_master.txt data/cdnow`."""

from __future__ import annotations

import csv
import sys
from datetime import datetime
from pathlib import Path

HEADER = ("customer_id", "date", "number_of_cds", "dollar_value")


def convert(master: Path, folder: Path) -> Path:
    """Write `cdnow_transactions.csv`; the master file has customer, YYYYMMDD, CDs and dollars, apart by spaces.

    Raises:
        ValueError: a line that does not; names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, beside = folder / "cdnow_transactions.csv", folder / "cdnow_transactions.csv.tmp"
    with master.open(encoding="ascii") as lines, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            if len(fields) != len(HEADER):
                raise ValueError(f"{master}, line {number}: {len(fields)} fields, not {len(HEADER)}")
            customer, date, count, dollars = fields
            writer.writerow([customer.zfill(5), datetime.strptime(date, "%Y%m%d").date(), count, dollars])
    beside.rename(target)
    return target


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(convert(Path(sys.argv[1]), Path(sys.argv[2])))
