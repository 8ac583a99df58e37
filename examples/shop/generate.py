"""Writes the sample world: `python -m examples.shop.generate --landing DIR`."""

import argparse
import json
import os
import tempfile
from pathlib import Path

from examples.shop.files import write_files
from examples.shop.law import World
from examples.shop.truth import identity, write_truth
from examples.shop.world import simulate


def write_world(landing: Path, world: World = World()) -> Path:  # noqa: B008 (a frozen value)
    """Write the world's files to `landing`, all or nothing; the same world gives the same bytes.

    Returns:
        `landing`. If it holds this very world already, nothing is done.

    Raises:
        FileExistsError: `landing` holds something else. What has landed is never overwritten.
    """
    if _holds(landing, world):
        return landing
    if landing.exists() and any(landing.iterdir()):
        raise FileExistsError(
            f"cannot write the sample world (seed {world.seed}, {world.customers} customers, {world.months} "
            f"months) to {landing}: it holds other files. Choose another folder, or delete that one."
        )
    landing.parent.mkdir(parents=True, exist_ok=True)
    people, months = simulate(world)
    with tempfile.TemporaryDirectory(prefix=f".{landing.name}-", dir=landing.parent) as beside:
        folder = Path(beside) / "landing"
        folder.mkdir()
        write_files(folder, world, people, months)
        write_truth(folder, world, months)
        os.replace(folder, landing)  # onto nothing or an empty folder: it fails if somebody was quicker
    return landing


def _holds(landing: Path, world: World) -> bool:
    truth = landing / "truth" / "truth.json"
    if not truth.exists():
        return False
    found = json.loads(truth.read_text(encoding="utf-8"))
    return all(found.get(name) == value for name, value in identity(world).items())


def main() -> None:
    """Parse the command line and write."""
    world = World()
    parser = argparse.ArgumentParser(description="Write the sample world, a subscription shop.")
    parser.add_argument("--landing", type=Path, required=True, help="folder to write to")
    for name in ("seed", "customers", "months"):
        parser.add_argument(f"--{name}", type=int, default=getattr(world, name), help="default: %(default)s")
    args = parser.parse_args()
    world = World(seed=args.seed, customers=args.customers, months=args.months)
    print(write_world(args.landing, world))


if __name__ == "__main__":
    main()
