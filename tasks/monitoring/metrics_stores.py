"""How old each store is, what is open, and what waits, as metrics. Reads our state, names of files and the logs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily, Metric

from models.charter import Charter
from models.gates.signals import Name as SignalName
from models.gates.signals import State
from tasks.clock import platform_now
from tasks.home import Home
from tasks.monitoring.alarms import open_alarms
from tasks.monitoring.heartbeats import WATCHDOG, Beat, ahead, last_beats, noted_signals, silences
from tasks.monitoring.queue import unshipped
from tasks.release.releases import read_releases
from tasks.release.rollouts import champion, open_rollout
from tasks.release.routing import ROLES, read_routes
from tasks.state import last_load, read_decisions


def queue_metrics(home: Home, engine: sa.Engine) -> Iterator[Metric]:
    """The prediction log that has not been shipped."""
    queue = unshipped(home, engine)
    yield GaugeMetricFamily("churn_unshipped_bytes", "prediction log that is not in the lake yet", value=queue.bytes)
    age = (datetime.now(UTC) - queue.oldest).total_seconds() if queue.oldest else 0.0
    yield GaugeMetricFamily("churn_unshipped_oldest_seconds", "age of the oldest line that waits; 0: none",
                            value=max(age, 0.0))


def store_metrics(home: Home, engine: sa.Engine, charter: Charter) -> Iterator[Metric]:
    """How far behind the platform clock each store is; a store that was never filled has no age, but what was never
    compared is infinitely behind."""
    clock = platform_now(engine, charter)
    yield GaugeMetricFamily("churn_platform_clock_seconds", "the platform clock, as UNIX time", value=clock.timestamp())
    age = GaugeMetricFamily("churn_store_age_seconds", "platform clock, less that of what a store holds",
                            labels=["store"])
    for name, as_of in _stores(home, engine).items():
        if as_of is not None:
            age.add_metric([name], (clock - as_of).total_seconds())
    verified = _verified(last_beats(engine), clock)
    age.add_metric(["parity"], (clock - verified).total_seconds() if verified else math.inf)
    yield age


def _verified(beats: Mapping[str, Beat], clock: datetime) -> datetime | None:
    """As of when what is online was last compared, where that is known and not of the future."""
    last = beats.get("parity")
    if last is None or last.as_of is None or last.as_of > clock or ahead(last.at, datetime.now(UTC)):
        return None
    return last.as_of


def _stores(home: Home, engine: sa.Engine) -> dict[str, datetime | None]:
    beats, serving = last_beats(engine), champion(engine)
    wanted = {release.release_id: release.fingerprint for release in read_releases(engine)}.get(
        serving.release_id) if serving else None
    checked = next(iter(read_decisions(engine, gate="drift", limit=1)), None)
    return {
        "lake": last_load(engine),
        "snapshot": _newest(home.lake / "snapshots", f"{wanted or '*'}/cut=*.parquet"),
        "online": beats["online"].as_of if "online" in beats else None,
        "labels": beats["labels"].as_of if "labels" in beats else None,
        "scores": _newest(home.lake / "scores", "as_of=*.parquet"),
        "drift check": datetime.fromisoformat(checked.as_of) if checked and checked.as_of else None,
    }


def _newest(folder: Path, pattern: str) -> datetime | None:
    """The newest moment that stands in the name of a partition (`tasks.data.lake.stamp`)."""
    stamps = [found.group(1) for path in folder.glob(pattern)
              if (found := re.search(r"=(\d{4}-\d\d-\d\d(?:T\d{6}(?:\.\d+)?Z)?)[.,]", path.name))]
    return datetime.fromisoformat(max(stamps)).replace(tzinfo=UTC) if stamps else None


def part_metrics(engine: sa.Engine, charter: Charter, *, maturity: int) -> Iterator[Metric]:
    """For how long each part is silent, and may be; of the watchdog in wall time, for it counts the other hours."""
    silent = GaugeMetricFamily("churn_part_silent_seconds", "that the platform ran since a part did its work",
                               labels=["part"])
    limit = GaugeMetricFamily("churn_part_limit_seconds", "silence the charter allows; infinite: the part is not due",
                              labels=["part", "owner"])
    for one in silences(engine, charter, maturity=maturity):
        silent.add_metric([one.part], one.hours * 3600)
        limit.add_metric([one.part, charter.owner(one.part)], one.limit_hours * 3600)
    last, now = last_beats(engine).get(WATCHDOG), datetime.now(UTC)
    yield from (silent, limit, GaugeMetricFamily(
        "churn_watchdog_silent_seconds", "wall time since the watchdog ended a round in which nothing failed",
        value=math.inf if last is None or ahead(last.at, now) else max((now - last.at).total_seconds(), 0.0)))


def release_metrics(home: Home, engine: sa.Engine) -> Iterator[Metric]:
    """Who answers, and what is on trial."""
    serving, opened = champion(engine), open_rollout(engine)
    yield GaugeMetricFamily("churn_champion", "whether our state has a champion", value=serving is not None)
    role = GaugeMetricFamily("churn_release_role", "1 for each release that is routed", labels=[
        "release", "model_version", "role"])
    versions = {release.release_id: release.model_version for release in read_releases(engine)}
    routes = read_routes(home)
    for name in ROLES:
        upstream = getattr(routes, name)
        if upstream:
            role.add_metric([upstream.release_id, versions.get(upstream.release_id, ""), name], 1)
    yield role
    yield GaugeMetricFamily("churn_rollout_open", "whether a rollout is open", value=opened is not None)
    if opened is not None:
        age = datetime.now(UTC) - datetime.fromisoformat(opened.opened_at)
        for metric, text, value in (
            ("churn_rollout_age_seconds", "since it was opened", age / timedelta(seconds=1)),
            ("churn_rollout_judge_silent_seconds", "since the judge last looked at it",
             opened.minutes_without_look * 60)):
            gauge = GaugeMetricFamily(metric, text, labels=["release", "state"])
            gauge.add_metric([opened.release_id, opened.state], value)
            yield gauge


def alarm_metrics(engine: sa.Engine, charter: Charter) -> Iterator[Metric]:
    """The alarms that are open in the ledger."""
    alarms = open_alarms(engine, charter)
    yield GaugeMetricFamily("churn_alarms_open", "alarms in the ledger nobody has answered", value=len(alarms))
    gauge = GaugeMetricFamily("churn_alarm_open_since_seconds", "UNIX time at which it was raised", labels=[
        "gate", "subject", "owner"])
    for alarm in alarms:
        gauge.add_metric([alarm.gate, alarm.subject, alarm.owner], datetime.fromisoformat(alarm.since).timestamp())
    yield gauge


def signal_metrics(engine: sa.Engine, charter: Charter) -> Iterator[Metric]:
    """What the check of the latest date saw, number by number: label coverage, performance, concept, quality. A signal
    that no check has seen is in no state."""
    state = GaugeMetricFamily("churn_signal_state", "1 for the state a signal is in, 0 for the others", labels=[
        "signal", "state"])
    value = GaugeMetricFamily("churn_signal_value", "a number of a signal's evidence", labels=["signal", "name"])
    age = GaugeMetricFamily("churn_signal_age_seconds", "platform clock, less that of the check", labels=["signal"])
    clock = platform_now(engine, charter)
    seen = noted_signals(engine)
    states = {noted.signal.name: noted.signal.state for noted in seen}
    for signal in get_args(SignalName):
        for name in get_args(State):
            state.add_metric([signal, name], states.get(signal) == name)
    for noted in seen:
        for name, number in noted.signal.evidence.items():
            if isinstance(number, int | float) and math.isfinite(number):
                value.add_metric([noted.signal.name, name], number)
        age.add_metric([noted.signal.name], (clock - noted.as_of).total_seconds())
    yield from (state, value, age)


def limit_metrics(charter: Charter) -> Iterator[Metric]:
    """The charter's limits that rules compare with: a rule does not say them a second time."""
    gauge = GaugeMetricFamily("churn_charter_limit", "a limit of the charter, in the unit of its name", labels=["key"])
    for key, value in {
        "requirements.max_feature_age_days": charter.requirements.max_feature_age_days,
        "requirements.max_data_age_days": charter.requirements.max_data_age_days,
        "rollout.judge_silence_minutes": charter.rollout.judge_silence_minutes,
        "rollout.time_limit_minutes": charter.rollout.time_limit_minutes,
    }.items():
        gauge.add_metric([key], value)
    yield gauge
