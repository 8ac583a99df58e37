"""kill -9 under load: whatever was answered is in the prediction log."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
import time

import pytest

from models.serving.prediction_log import parse_line, pieces

pytestmark = pytest.mark.service

PORT = 25050
VARIABLES = {"CHURN_LOG_ROTATE_BYTES": "60000"}  # so that some are killed while they rotate
KILLS = 20
ROWS = [{"visits": 1, "spend": 12.5, "tier": "gold"}, {"visits": 9, "spend": None, "tier": None}]
BODY = json.dumps({"rows": ROWS})


def ask(port: int, answered: list[tuple[str, int]], stop: threading.Event) -> None:
    """Score by both routes until told to stop; writes down what was answered whole."""
    connection, number = http.client.HTTPConnection("127.0.0.1", port, timeout=5), 0
    while not stop.is_set():
        number += 1
        try:
            if number % 4:
                connection.request("POST", "/v1/score", BODY, {"content-type": "application/json"})
            else:
                connection.request("GET", "/v1/customers/m1/churn")
            answer = connection.getresponse()
            body = json.loads(answer.read())
            if answer.status == 200:
                answered.append((body["request_id"], len(body.get("predictions", [0]))))
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()
            time.sleep(0.01)


def test_twenty_kills_under_load_lose_no_line_of_an_answered_request(serving):
    answered: list[list[tuple[str, int]]] = [[] for _ in range(4)]
    stop, chance = threading.Event(), random.Random(5)
    pid = serving.next_server()
    clients = [threading.Thread(target=ask, args=(PORT, one, stop)) for one in answered]
    for client in clients:
        client.start()
    try:
        for _ in range(KILLS):
            before = sum(map(len, answered))
            deadline = time.monotonic() + 20
            while sum(map(len, answered)) < before + 20 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
            pid = serving.next_server()
    finally:
        stop.set()
        for client in clients:
            client.join()
    lines = [parse_line(line) for piece in pieces(serving.log) for line in piece.read_bytes().splitlines()]
    assert None not in lines  # not one is torn
    logged = {(line["request_id"], line["row"]) for line in lines if line}
    wanted = {(request_id, row) for one in answered for request_id, rows in one for row in range(rows)}
    assert len(wanted) > KILLS * 20
    assert wanted - logged == set()
    assert len(pieces(serving.log)) > 1
