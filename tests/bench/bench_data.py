"""`make bench-data`: what each stage of the data costs beside the least that gives the same. Prints a table; exits 0.

    SIZES="10000 100000 1000000"   worlds to measure, in customers (about twelve orders each, twelve cuts)

Each figure comes from a process of its own; both sides are run in turn, best of three (of one at a million).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.measure import pair
from tests.bench.world import World

REPO: Final = Path(__file__).parents[2]
LARGE: Final = 1_000_000
PEAK_GB: Final = 4.0


@dataclass(frozen=True)
class Stage:
    """A row of the table at each size, and its limits."""

    title: str
    module: str
    variant: str
    ratio: float  # CPU seconds, at most so many times those of what it is compared with
    ratio_up_to: int = LARGE  # sizes above have no ratio
    least: int = 0  # sizes below have no limit
    growth: float | None = 1.2
    per_customer: float | None = None  # at a million, against itself at the size before
    bounded: bool = False  # its peak memory at a million has a limit


STAGES: Final = (
    Stage("validate", "stage_validate", "polars", 5, least=100_000),
    Stage("12 snapshots", "stage_snapshots", "duckdb", 1.5),
    Stage("12 snapshots, one at a time", "stage_snapshots", "one_by_one", 1.5, ratio_up_to=100_000, growth=None),
    Stage("training set of 6 cuts", "stage_training_set", "feast", 2.5, bounded=True),
    Stage("materialize, SQLite", "stage_materialize", "sqlite", 4, ratio_up_to=100_000, growth=None),
    Stage("materialize, Redis", "stage_materialize", "redis", 6, ratio_up_to=100_000, growth=None, per_customer=1.3,
          bounded=True),
)


@dataclass(frozen=True)
class Figure:
    """One side of a stage at one size."""

    cpu: float
    peak_gb: float


def run(stage: Stage, side: str, world: World) -> dict[str, float]:
    """One measurement; what it prints to stderr is shown only if it fails."""
    command = [sys.executable, "-m", "tests.bench.measure", stage.module, stage.variant, side, str(world.customers),
               str(world.folder)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{stage.title} ({side}, {world.customers:,} customers) failed:\n{done.stderr[-3000:]}")
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def best(stage: Stage, world: World) -> tuple[Figure, Figure, Figure | None]:
    """Ours, what it is compared with, and at a million ours without buckets."""
    rounds = 1 if world.customers >= LARGE else 3
    seen: dict[str, list[Figure]] = {"ours": [], "against": []}
    for number in range(rounds):
        for side in seen:
            print(f"  {world.customers:>9,}  {stage.title:<27} {side:<8} {number + 1} of {rounds}", file=sys.stderr,
                  flush=True)
            answer = run(stage, side, world)
            seen[side].append(Figure(answer["cpu"], answer["peak_gb"]))
    whole = None
    if world.customers >= LARGE and stage.bounded and pair(stage.module, stage.variant).unbucketed:
        answer = run(stage, "unbucketed", world)
        whole = Figure(answer["cpu"], answer["peak_gb"])
    ours, against = (min(figures, key=lambda figure: figure.cpu) for figures in seen.values())
    return ours, against, whole


def verdict(seen: float, limit: float) -> str:
    return "ok" if seen <= limit else "missed"


def main() -> None:
    sizes = [int(size) for size in os.environ.get("SIZES", "10000 100000 1000000").split()]
    lines = [f"{'customers':>9}  {'stage':<27} {'ours':>8} {'against':>8}  {'seen':>9} {'at most':>9}"]
    found: dict[tuple[str, int], tuple[Figure, Figure]] = {}
    with tempfile.TemporaryDirectory() as name:
        for size in sizes:
            world = World(size, Path(name) / str(size))
            print(f"  {size:>9,}  writing and ingesting", file=sys.stderr, flush=True)
            world.fill_lake()
            for stage in STAGES:
                if size > stage.ratio_up_to and stage.growth is None and not stage.bounded:
                    continue
                if size == sizes[0] and pair(stage.module, stage.variant).same is not None:
                    assert run(stage, "same", world)["same"], f"{stage.title}: the two sides answer differently"
                ours, against, whole = best(stage, world)
                found[stage.title, size] = ours, against
                lines.append(ratio_row(stage, size, ours, against))
                lines += growth_rows(stage, size, sizes, found)
                if size >= LARGE and stage.bounded:
                    lines.append(f"{size:>9,}  {'  peak memory':<27} {ours.peak_gb:>8.2f} "
                                 f"{f'({whole.peak_gb:.2f})' if whole else '':>8}  {ours.peak_gb:>6.2f} GB "
                                 f"{PEAK_GB:>6.2f} GB  {verdict(ours.peak_gb, PEAK_GB)}")
    print("\n".join(lines))
    print("ours, against: CPU seconds, best of three (one at a million); peak memory: GB, in brackets without buckets")


def ratio_row(stage: Stage, size: int, ours: Figure, against: Figure) -> str:
    limited = stage.least <= size <= stage.ratio_up_to
    seen = ours.cpu / against.cpu
    limit = f"{f'{stage.ratio:g} x':>9}  {verdict(seen, stage.ratio)}" if limited else ""
    return f"{size:>9,}  {stage.title:<27} {ours.cpu:>8.2f} {against.cpu:>8.2f}  {seen:>7.2f} x {limit}".rstrip()


def growth_rows(
    stage: Stage, size: int, sizes: list[int], found: dict[tuple[str, int], tuple[Figure, Figure]]
) -> list[str]:
    """At the largest size: growth against the growth of what it is compared with, or per customer against itself."""
    before = sizes[sizes.index(size) - 1] if size in sizes[1:] else None
    if before is None or size < LARGE:
        return []
    (ours, against), (small, small_against) = found[stage.title, size], found[stage.title, before]
    rows = []
    if stage.growth is not None:
        grown, other = ours.cpu / small.cpu, against.cpu / small_against.cpu
        rows.append(f"{size:>9,}  {'  growth':<27} {grown:>6.1f} x {other:>6.1f} x  {grown / other:>7.2f} x "
                    f"{f'{stage.growth:g} x':>9}  {verdict(grown / other, stage.growth)}")
    if stage.per_customer is not None:
        now, then = (figure.cpu / customers * 1e6 for figure, customers in ((ours, size), (small, before)))
        rows.append(f"{size:>9,}  {'  per customer':<27} {now:>5.0f} us {then:>5.0f} us  {now / then:>7.2f} x "
                    f"{f'{stage.per_customer:g} x':>9}  {verdict(now / then, stage.per_customer)}")
    return rows


if __name__ == "__main__":
    main()
