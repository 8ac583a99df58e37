"""Serves the tiny release over HTTP in processes that a test may kill: `python -m ... FOLDER PORT`.

Loads what is slow to load once, and forks the server from there; a server that was killed is forked again. So a
killed one is soon back, and a test can afford twenty. Everything but BentoML is a release's own.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import uvicorn

from models.serving.api import build_app
from models.serving.prediction_log import PredictionLog
from models.serving.runtime import Runtime, build_runtime
from models.serving.service import end_with_parent, load_runtime


def serve(warm: Runtime, port: int) -> None:
    """One server, with a log, a feature store and metrics of its own, until it is killed."""
    from models.serving.features_online import open_online

    payload = warm.payload
    read_online = open_online(
        os.environ["CHURN_FEAST_REGISTRY"], os.environ["CHURN_FEAST_ONLINE"], payload.contract,
        view=payload.manifest["feature_view"], service_name=payload.manifest["feature_service"])
    log = PredictionLog(Path(os.environ["CHURN_PREDICTION_LOG"]),
                        rotate_bytes=int(os.environ.get("CHURN_LOG_ROTATE_BYTES", 1 << 28)))
    app = build_app()
    app.state.runtime = replace(
        build_runtime(payload, release_id="churn:v3-test", read_online=read_online, log=log,
                      customer_key=warm.customer_key, clock=warm.clock), keys=warm.keys)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical", access_log=False)


def main(folder: Path, port: int) -> int:
    """Fork until a server ends of itself; the pid of each is a line on standard output."""
    warm = load_runtime(folder, release_id="churn:v3-warm")
    while True:
        child = os.fork()
        if child == 0:
            end_with_parent()
            serve(warm, port)
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
