"""A release in fifty lines, run as a program: `release_backend.py PORT RELEASE_ID MODE_FILE`.

Answers like the service; the mode file says how it misbehaves: `500`, `404`, `hang`, `wrong`, `end` or nothing.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT, RELEASE_ID, MODE = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])


class Release(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait 40 ms for each other
    timeout = 60

    def do_GET(self) -> None:
        mode = self.mode()
        if self.path == "/readyz":
            self.answer(200, {}, None)
        elif mode == "404":
            self.answer(404, {"error": "unknown"}, self.path.split("/")[3])
        else:
            self.answer(200, {"release_id": RELEASE_ID}, self.path.split("/")[3] if "/v1/" in self.path else None)

    def do_POST(self) -> None:
        rows = json.loads(self.rfile.read(int(self.headers["content-length"])))["rows"]
        shift = 0.1 if self.mode() == "wrong" else 0.0
        self.answer(200, {"release_id": RELEASE_ID, "predictions": [
            {"row": number, "churn_probability": (row.get("x") or 0.0) + shift} for number, row in enumerate(rows)]},
            self.headers.get("x-customer-id"))

    def mode(self) -> str:
        return MODE.read_text() if MODE.exists() else ""

    def answer(self, status: int, document: dict[str, object], customer: str | None) -> None:
        if self.path != "/readyz":
            with open(f"{MODE}.asked", "a", encoding="utf-8") as file:
                file.write(f"{self.command} {self.path} {self.headers.get('x-request-id')} {self.headers['host']}\n")
            if self.mode() == "hang":
                time.sleep(30)
            if self.mode() == "500":
                status = 500
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if customer:
            self.send_header("x-churn-customer", hashlib.sha256(customer.encode()).hexdigest()[:32])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


if MODE.exists() and MODE.read_text() == "end":
    sys.exit("the golden rows differ")
server = ThreadingHTTPServer(("127.0.0.1", PORT), Release)
server.daemon_threads = True
server.serve_forever()
