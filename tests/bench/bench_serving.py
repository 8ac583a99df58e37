"""`make bench-serving`: what a release costs a request, beside what one writes first. Prints a table, exits 0.

    SECONDS=4 REPEATS=3   of load a figure, and how often; the median counts
    CUSTOMERS=1000000     customers of the batch that is scored

CPU is that of the server's processes (user and system) by request; the client's is not in it. A release with one
worker, 16 connections, the prediction log on, no access log; the same fitted, calibrated pipeline (26 numbers, 4 words,
100 trees of 31 leaves) in every server.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import pandas as pd
import psutil
from threadpoolctl import threadpool_limits

from models.serving.scorer import feature_frame
from tests.bench import serving_world as world
from tests.bench import stage_batch_scoring
from tests.bench.bench_data import verdict
from tests.bench.load import Load, cpu, request, run
from tests.bench.serving_world import CONTRACT, CUSTOMERS, bodies, serving
from tests.waiting import free_port

SECONDS: Final = float(os.environ.get("SECONDS", "4"))
REPEATS: Final = int(os.environ.get("REPEATS", "3"))
PORTS: Final = range(25010, 25050)
TYPED, MLFLOW, MANY, ONLINE_MS, ENVOY_MS, READY_SECONDS, TAIL = 30, 20, 3.0, 0.4, 0.2, 8.0, 1.5


def row(what: str, seen: str, against: str, limit: str, word: str = "") -> str:
    return f"{what:<52} {seen:>12} {against:>12}  {limit:<44} {word}".rstrip()


def measure(port: int, requests: list[bytes], processes: list[psutil.Process], *, connections: int = 16) -> float:
    """CPU microseconds a request, median of three."""
    run(port, requests, connections=connections, seconds=0.7, processes=processes)
    loads = [run(port, requests, connections=connections, seconds=SECONDS, processes=processes)
             for _ in range(REPEATS)]
    check(loads)
    return statistics.median(load.cpu_us for load in loads)


def check(loads: list[Load]) -> None:
    for load in loads:
        if load.failed or not load.seconds:
            raise SystemExit(f"{load.failed} requests failed of {load.failed + len(load.seconds)}")


def tail(port: int, requests: list[bytes], process: psutil.Process, rate: float) -> float:
    """p99 / p50 at a rate, median of three."""
    loads = [run(port, requests, connections=16, seconds=SECONDS, processes=[process], rate=rate)
             for _ in range(REPEATS)]
    check(loads)
    return statistics.median(load.quantile(0.99) / load.quantile(0.5) for load in loads)


def bare(pipeline: Any) -> float:
    """CPU microseconds of `predict_proba` on a ready frame of 1,000 rows."""
    frame = feature_frame(world.make_rows(1000, 6), CONTRACT)
    pipeline.predict_proba(frame)
    seen = []
    for _ in range(15):
        begun = time.process_time()
        pipeline.predict_proba(frame)
        seen.append((time.process_time() - begun) * 1e6)
    return statistics.median(seen)


def of_the_release(folder: Path, pipeline: Any, found: dict[str, float]) -> list[str]:
    one, port = [request("/v1/score", body) for body in bodies(64, 1)], free_port(PORTS)
    gets = [request(f"/v1/customers/c{number:06d}/churn") for number in range(CUSTOMERS)]
    starts, spent = [], []
    for _ in range(REPEATS):
        with serving(folder, *world.release(folder, port, workers=2), port) as (server, seconds):
            starts.append(seconds)
            spent.append(cpu([server]))
    with serving(folder, *world.release(folder, port), port) as (server, _):
        found["given"] = measure(port, one, [server])
        found["online"] = measure(port, gets, [server])
        found["many"] = measure(port, [request("/v1/score", body) for body in bodies(3, 1000)], [server],
                                connections=1)
        found["envoy"] = through_envoy(folder, port, server, one)
        most = run(port, one, connections=16, seconds=SECONDS, processes=[server]).rate
        found["tail"] = tail(port, one, server, most / 2)
    plain = bare(pipeline)
    online, envoy, ready = ((found["online"] - found["given"]) / 1000, (found["envoy"] - found["given"]) / 1000,
                            statistics.median(starts))
    return [
        row("one row, features given", f"{found['given']:.0f} us", "", ""),
        row("1,000 rows in one request", f"{found['many'] / 1000:.1f} ms", f"{plain / 1000:.1f} ms",
            f"at most {MANY:g} x bare predict_proba, seen {found['many'] / plain:.2f} x",
            verdict(found["many"] / plain, MANY)),
        row("one customer, 30 online features, SQLite", f"{found['online']:.0f} us", f"{found['given']:.0f} us",
            f"at most +{ONLINE_MS:g} ms, seen {online:+.2f} ms", verdict(online, ONLINE_MS)),
        row("through Envoy", f"{found['envoy']:.0f} us", f"{found['given']:.0f} us",
            f"at most +{ENVOY_MS:g} ms, seen {envoy:+.2f} ms", verdict(envoy, ENVOY_MS)),
        row("ready, two workers, from start to /readyz", f"{ready:.1f} s", f"CPU {statistics.median(spent):.1f} s",
            f"at most {READY_SECONDS:g} s", verdict(ready, READY_SECONDS)),
    ]


def through_envoy(folder: Path, port: int, server: psutil.Process, requests: list[bytes]) -> float:
    """CPU of release and Envoy together."""
    from tasks.home import Home
    from tasks.release.routing import Routes, Upstream, envoy_command, set_routes, write_bootstrap

    home, api_port = Home(folder / "home"), free_port(PORTS)
    home.run.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="churn-") as sockets:  # short: a socket's path holds 108 bytes
        (home.run / "sockets").write_text(f"{sockets}\n")
        write_bootstrap(home, host="127.0.0.1", api_port=api_port)
        set_routes(home, Routes(Upstream("churn:bench", port)), wait_seconds=0)
        with serving(home.run, envoy_command(home), {}, api_port, ready="/docs") as (router, _):
            return measure(api_port, requests, [server, router])


def of_the_others(folder: Path, pipeline: Any, found: dict[str, float]) -> list[str]:
    lines, port = [], free_port(PORTS)
    bare_bodies = bodies(64, 1)
    command = [sys.executable, "-m", "bentoml", "serve", "typed:Typed", "--host", "127.0.0.1", "--port", str(port)]
    with serving(folder, command, {"PYTHONPATH": str(folder), "BENTOML_HOME": str(folder / "bentoml")},
                 port) as (server, _):
        typed = measure(port, [request("/predict", body) for body in bare_bodies], [server])
    lines.append(row("  a typed @bentoml.api, the same pipeline", f"{found['given']:.0f} us", f"{typed:.0f} us",
                     f"at least {TYPED} x less, seen {typed / found['given']:.0f} x",
                     verdict(TYPED, typed / found["given"])))
    flow = mlflow_server(folder, pipeline, bare_bodies)
    lines.append(row("  mlflow models serve, one worker", f"{found['given']:.0f} us", f"{flow:.0f} us",
                     f"at least {MLFLOW} x less, seen {flow / found['given']:.0f} x",
                     verdict(MLFLOW, flow / found["given"])))
    command = [sys.executable, "-m", "uvicorn", "noop:app", "--port", str(port), "--no-access-log"]
    with serving(folder, command, {"PYTHONPATH": str(folder)}, port) as (server, _):
        requests = [request("/v1/score", body) for body in bare_bodies]
        most = run(port, requests, connections=16, seconds=SECONDS, processes=[server]).rate
        noop = tail(port, requests, server, most / 2)
    lines.append(row("p99 / p50 at half of the greatest throughput", f"{found['tail']:.1f} x", f"{noop:.1f} x",
                     f"at most {TAIL:g} x a no-op Starlette's, seen {found['tail'] / noop:.2f} x",
                     verdict(found["tail"] / noop, TAIL)))
    return lines


def mlflow_server(folder: Path, pipeline: Any, given: list[bytes]) -> float:
    import mlflow.sklearn

    model, port = folder / "mlflow-model", free_port(PORTS)
    mlflow.sklearn.save_model(pipeline, str(model), serialization_format="cloudpickle", pip_requirements=[])
    requests = []
    for body in given:
        frame = pd.DataFrame(json.loads(body)["rows"], columns=CONTRACT.feature_names)
        split = json.loads(frame.to_json(orient="split", index=False))
        requests.append(request("/invocations", json.dumps({"dataframe_split": split}).encode()))
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local",
               "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with serving(folder, command, {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PYTHONOPTIMIZE": "",
                                   "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"}, port, ready="/ping") as (server, _):
        return measure(port, requests, [server])


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as name, threadpool_limits(limits=1):
        folder, found = Path(name), dict[str, float]()
        pipeline = world.write_world(folder)
        print(row("what", "ours", "against", "limit"), flush=True)
        for line in of_the_release(folder, pipeline, found):
            print(line, flush=True)
        for line in of_the_others(folder, pipeline, found):
            print(line, flush=True)
    print("\n".join(stage_batch_scoring.rows()), flush=True)
    print("CPU of the server's processes a request, median of three; 'against' is what stands in the limit")


if __name__ == "__main__":
    main()
