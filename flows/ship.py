"""Ship: the prediction log into the lake, each row with the role it had."""

from __future__ import annotations

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.settings import load_place, load_settings
from tasks.home import Home
from tasks.monitoring.heartbeats import beat
from tasks.monitoring.ship_log import ship as ship_log
from tasks.state import open_state


@flow(name="ship")
def ship() -> int:
    """What the releases answered since the last time, for truth to join later; returns how many rows."""
    _charter, home = load_place(load_settings())
    return ship_predictions(home)


@task(name="ship-predictions", cache_policy=NO_CACHE)
def ship_predictions(home: Home) -> int:
    """Predictions with roles to `lake/predictions`; raw lines that nobody needs any more go."""
    engine = open_state(home.state_url)
    done = ship_log(home, engine)
    beat(engine, "ship")
    get_run_logger().info("%s", done.line)
    return done.rows
