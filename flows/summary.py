"""What a run prints: seconds per stage while it goes, and where everything stands at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import polars as pl

from flows.context import Context
from models.decision import Decision
from tasks.data.ingest import Load
from tasks.data.quality import read_scorecards
from tasks.release import releases, rollouts
from tasks.scoring.score import scores_partition


@dataclass
class Stages:
    """Times stages and says on stderr when one begins and ends, so that a long one is seen to run."""

    seconds: dict[str, float] = field(default_factory=dict)
    loud: bool = True

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self.loud:
            say(f"{name} ...")
        begun = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begun
        if self.loud:
            say(f"{name}: {self.seconds[name]:.1f} s")


def say(line: str) -> None:
    """A line of progress."""
    print(f"  {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Summary:
    """Where everything stands after a run."""

    lines: tuple[tuple[str, str], ...]
    seconds: Mapping[str, float]
    decisions: Mapping[str, Decision | None]
    curl: str | None

    def text(self) -> str:
        """The summary as printed; the curl command, where there is one, is the last line."""
        width = max(len(name) for name, _ in self.lines)
        body = "\n".join(f"{name:<{width}}  {value}" for name, value in self.lines)
        return f"{body}\n\n{self.curl}" if self.curl else body


def summarise(
    context: Context, stages: Stages, load: Load, promotion: Decision, rollout: Decision | None, drift: Decision | None
) -> Summary:
    """Everything a reader asks after a run, from what the stages answered and what our state says."""
    evidence, total = promotion.evidence, load.total
    champion = rollouts.champion(context.engine)
    lines = [
        ("as of", f"{context.as_of:%Y-%m-%d}   charter {context.charter.name}   home {context.home.root}"),
        ("rows", f"{total.line}   dataset {load.dataset_version}"
                 + (f"   {total.files_skipped:,} unchanged files not read again" if total.files_skipped else "")),
        ("quality", next((card.line for card in read_scorecards(context.engine) if card.as_of == load.as_of),
                         "no scorecard was recorded with this load")),
        ("features", f"{evidence['features']} ({context.contract.service_name})"),
        ("model", f"{evidence['estimator']}: AUC {_number(evidence, 'candidate_auc'):.3f}, one column "
                  f"({evidence['baseline_column']}) {_number(evidence, 'baseline_auc'):.3f}, tested on "
                  f"{evidence['test_cuts']}"),
        ("value", f"{_number(evidence, 'monthly_value'):+,.0f} a month expected from the top "
                  f"{context.charter.value.contact_budget:,} customers; the charter claims "
                  f"{context.charter.claim_a_month:+,.0f}"),
        ("gate", f"{promotion.verdict}: {promotion.reason}"),
    ]
    card = context.home.reports / f"card-v{evidence.get('model_version')}" / "model-card.html"
    if card.exists():
        lines.append(("card", card.as_uri()))
    if rollout is None:
        lines.append(("release", "none: a release needs a running platform, `make run`"))
    else:
        lines.append(("release", f"{rollout.verdict}: {rollout.reason}"))
        live = releases.read_release(context.engine, champion.release_id) if champion else None
        shown = f"version {live.model_version} ({live.release_id}), AUC {live.auc:.3f}" if live else "nothing"
        lines.append(("live", shown))
    scores = scores_partition(context.home, context.as_of)
    if champion and scores.exists():
        contacts = pl.read_parquet(scores).filter(pl.col("decision") == "contact")
        lines.append(("contacts", f"{len(contacts):,} are worth one, {contacts['within_budget'].sum():,} within the "
                                  f"budget of {context.charter.value.contact_budget:,}"))
    if drift is not None:
        lines.append(("drift", f"{drift.verdict}: {drift.reason}"))
    if rollout is not None:
        lines += _addresses(context, promotion)
    lines.append(("seconds", "   ".join(f"{name} {value:.1f}" for name, value in stages.seconds.items())))
    decisions = {"promotion": promotion, "release": rollout, "drift": drift}
    return Summary(tuple(lines), stages.seconds, decisions, _curl(context) if champion else None)


def _addresses(context: Context, promotion: Decision) -> list[tuple[str, str]]:
    """Where to look; each line stands only if there is something to see."""
    settings, report = context.settings, context.home.reports / f"drift-{context.as_of:%Y-%m-%d}.html"
    lines = [
        ("prefect", f"http://{settings.host}:{settings.prefect_port}"),
        ("password", f"the Prefect UI asks for the line in {context.home.run / 'prefect-auth'}"),
        ("mlflow", f"http://{settings.host}:{settings.mlflow_port}{mlflow_page(promotion)}"),
        ("docs", f"http://{settings.host}:{settings.api_port}/docs"),
    ]
    return [*lines, ("report", report.as_uri())] if report.exists() else lines


def mlflow_page(promotion: Decision) -> str:
    """Where MLflow's UI shows the run beside the others of its experiment."""
    experiment = promotion.evidence.get("experiment_id")
    return f"/#/experiments/{experiment}/runs?workflowType=machine_learning" if experiment else ""


def _number(evidence: Mapping[str, float | int | str | None], name: str) -> float:
    value = evidence.get(name)
    return float("nan") if value is None else float(value)


def _curl(context: Context) -> str | None:
    """A request for the customer who is most worth a contact."""
    path = scores_partition(context.home, context.as_of)
    if not path.exists():
        return None
    first = pl.read_parquet(path).sort("rank")[context.contract.entity_key][0]
    return f"curl http://{context.settings.host}:{context.settings.api_port}/v1/customers/{first}/churn"
