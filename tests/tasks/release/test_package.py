import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import psutil
import pytest

from models.errors import ReleaseError
from tasks.home import Home
from tasks.release.package import (
    bento_payload,
    bento_venv,
    build_bento,
    ensure_venv,
    export_pins,
    pins_hash,
    serve_command,
    serving_code,
)
from tests.release_payload import KEY, write_payload, write_store
from tests.waiting import free_port

REPO = Path(__file__).resolve().parents[3]
GOOD = {"visits": 1, "spend": 12.5, "tier": "gold"}


def test_the_pins_are_exact_and_hold_what_a_release_needs():
    lines = export_pins(REPO).splitlines()
    names = {line.split("==")[0] for line in lines}
    assert all("==" in line for line in lines)
    assert {"bentoml", "feast", "scikit-learn", "skops", "pandas", "pyarrow", "orjson", "uvicorn"} <= names
    assert not names & {"mlflow", "evidently", "prefect", "duckdb", "pandera"}


def test_the_hash_of_pins_ignores_order_and_comments_and_follows_versions():
    assert pins_hash("a==1\nb==2\n") == pins_hash("# made today\nb==2\n\na==1\n")
    assert pins_hash("a==1\n") != pins_hash("a==2\n")


def test_a_repo_without_lock_is_an_error_in_one_line(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n')
    with pytest.raises(ReleaseError, match="cannot export the serving pins: ") as refused:
        export_pins(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_pin_that_does_not_exist_leaves_no_environment_behind(tmp_path):
    with pytest.raises(ReleaseError, match="cannot install the serving pins"):
        ensure_venv(Home(tmp_path), "no-such-package-of-ours @ file:///nonexistent.whl\n")
    assert not [path for path in (tmp_path / "venvs").iterdir() if path.suffix != ".building" and path.is_dir()]


def test_a_payload_without_pins_is_refused(tmp_path):
    with pytest.raises(ReleaseError, match=r"it has no requirements\.txt"):
        build_bento(write_payload(tmp_path / "payload"), home=Home(tmp_path), repo=REPO)


def test_an_unknown_bento_is_an_error(tmp_path):
    with pytest.raises(ReleaseError, match="cannot find the Bento 'churn:v9'"):
        bento_payload(Home(tmp_path), "churn:v9")


def test_the_code_in_a_bento_is_all_the_service_imports_and_no_more():
    """Walks the imports of the two programs that serve a Bento, those inside functions too."""
    import ast

    code = {path.relative_to(REPO).with_suffix("").as_posix().replace("/", "."): path for path in serving_code(REPO)}
    needed, todo = set(), ["models.serving.service", "models.serving.prefork"]
    while todo:
        name = todo.pop()
        needed.add(name)
        for node in ast.walk(ast.parse(code[name].read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [
                alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            todo += [module for module in modules if module.startswith("models.") and module not in needed]
    assert needed | {"models.__init__", "models.serving.__init__"} == set(code)


def test_the_serving_environment_names_every_place_and_not_the_repo(tmp_path):
    command, environment = serve_command(Home(tmp_path), "churn:v3", tmp_path / "venv", port=24100)
    assert command[1:] == ["-m", "models.serving.prefork", "--host", "127.0.0.1", "--port", "24100"]
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["BENTOML_DO_NOT_TRACK"] == "True"
    assert environment["PYTHONPATH"] == str(tmp_path / "bentoml/bentos/churn/v3/src")
    assert str(REPO) not in " ".join([*command, *(value for name, value in environment.items() if name != "PATH")])


def test_a_bento_from_before_there_was_a_prefork_is_served_as_it_was_then(tmp_path):
    code = tmp_path / "bentoml/bentos/churn/v3/src/models"
    code.mkdir(parents=True)
    (code / "service.py").touch()
    command, environment = serve_command(Home(tmp_path), "churn:v3", tmp_path / "venv", port=24100)
    assert command == [str(tmp_path / "venv/bin/bentoml"), "serve", "churn:v3", "--host", "127.0.0.1", "--port",
                       "24100"]
    assert environment["BENTOML_HOME"] == str(tmp_path / "bentoml")
    assert "PYTHONPATH" not in environment


class Release:
    """A served Bento: its parent process, port and log."""

    def __init__(self, home, tag, venv, bentoml=False):
        self.port = free_port(range(24100, 24200))
        command, environment = serve_command(home, tag, venv, port=self.port)
        if bentoml:
            command = [str(venv / "bin" / "bentoml"), "serve", tag, "--port", str(self.port)]
            environment = {**environment, "BENTOML_HOME": str(home.bentoml)}
            for name in ("PYTHONPATH", "PYTHONSAFEPATH", "CHURN_METRICS_DIR"):
                del environment[name]
        self.log = home.root / f"serve-{self.port}.log"
        self.process = subprocess.Popen(
            command, env={**environment, "HOME": str(home.root / "user")}, cwd=home.run, start_new_session=True,
            stdout=self.log.open("w"), stderr=subprocess.STDOUT)

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def post(self, document):
        body = document if isinstance(document, str) else json.dumps(document)
        status, text = self.ask("POST", "/v1/score", body, {"content-type": "application/json"})
        return status, json.loads(text)

    def wait(self, seconds=90):
        """Seconds until ready, or None where the process ended first."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if self.process.poll() is not None:
                return None
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return time.monotonic() - started
            except OSError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"neither ready nor ended in {seconds} s: {self.log.read_text()}")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    for folder in (home.run, home.serving, home.root / "user"):
        folder.mkdir()
    write_store(home.feast)
    (home.run / "customer-key").write_bytes(KEY)
    (home.run / "clock").write_text("2025-01-02")
    return home


@pytest.fixture(scope="module")
def packaged(home):
    """Built by two at once, from nothing."""
    payload = write_payload(home.root / "payload")
    (payload / "requirements.txt").write_text(export_pins(REPO))
    with ThreadPoolExecutor(2) as builders:
        tags = {future.result() for future in [builders.submit(build_bento, payload, home=home, repo=REPO)
                                               for _ in range(2)]}
    assert len(tags) == 1
    tag = tags.pop()
    return tag, bento_venv(home, tag)


@pytest.fixture(scope="module")
def release(home, packaged):
    release = Release(home, *packaged)
    assert release.wait() is not None, release.log.read_text()
    yield release
    release.stop()


@pytest.mark.service
def test_bentos_own_server_serves_a_release_too(home, packaged):
    served = Release(home, *packaged, bentoml=True)
    try:
        assert served.wait() is not None, served.log.read_text()
        status, answer = served.post({"rows": [GOOD]})
        assert (status, answer["release_id"]) == (200, packaged[0])
    finally:
        served.stop()


@pytest.mark.service
def test_two_builders_at_once_make_one_environment_and_one_bento(home, packaged):
    assert [path.name for path in home.venvs.iterdir() if path.is_dir()] == [packaged[1].name]
    assert [path.name for path in (home.bentoml / "bentos" / "churn").iterdir()] == [packaged[0].split(":")[1]]
    assert not [path for path in home.bentoml.iterdir() if path.name.startswith("stage-")]


@pytest.mark.service
def test_the_same_payload_is_not_built_twice_and_another_one_is_another_tag(home, packaged, tmp_path):
    started = time.monotonic()
    assert build_bento(home.root / "payload", home=home, repo=REPO) == packaged[0]
    assert time.monotonic() - started < 0.5
    shutil.copytree(home.root / "payload", tmp_path / "payload")
    write_payload(tmp_path / "payload", threshold=0.5)
    assert build_bento(tmp_path / "payload", home=home, repo=REPO) != packaged[0]


@pytest.mark.service
@pytest.mark.usefixtures("packaged")
def test_a_second_environment_comes_from_the_cache_without_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.release.package.WARM_UP", "import bentoml")  # compiled once is enough for a test run
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    assert (ensure_venv(Home(tmp_path), export_pins(REPO)) / "bin" / "bentoml").exists()


@pytest.mark.service
def test_a_served_bento_answers_get_and_post(release, packaged):
    status, text = release.ask("GET", "/v1/customers/m1/churn")
    known = json.loads(text)
    assert (status, known["release_id"], known["model_version"]) == (200, packaged[0], "3")
    assert "degraded" not in known
    assert release.ask("GET", "/v1/customers/nobody/churn")[0] == 404
    status, scored = release.post({"rows": [GOOD]})
    assert (status, scored["predictions"][0]["churn_probability"]) == (200, known["churn_probability"])


@pytest.mark.service
@pytest.mark.parametrize(("document", "field"), [
    ('{"rows": [{"visits": 1, "spend": NaN, "tier": "gold"}]}', "spend"),
    ({"rows": [{**GOOD, "unknown": 1}]}, "unknown"),
    ({"rows": [GOOD] * 1001}, "rows"),
], ids=["NaN", "unknown key", "too many rows"])
def test_a_served_bento_refuses_bad_input_by_field(release, document, field):
    status, answer = release.post(document)
    assert (status, answer["fields"][0]["field"]) == (422, field)


@pytest.mark.service
def test_a_served_bento_shows_docs_metrics_and_probes(release):
    assert "swagger" in release.ask("GET", "/docs")[1]
    for path in ("/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/start.js", "/openapi.json",
                 "/readyz", "/livez"):
        assert release.ask("GET", path)[0] == 200
    assert 'route="/v1/customers/{customer_id}/churn",status="200"' in release.ask("GET", "/metrics")[1]


@pytest.mark.service
def test_a_served_bento_logs_no_customer_and_writes_nothing_outside_its_home(home, release):
    release.ask("GET", "/v1/customers/m2/churn")
    assert "m2" not in release.log.read_text()
    assert not list((home.root / "user").rglob("*"))
    assert '"entity":"m2"' in (home.serving / "predictions.jsonl").read_text()


@pytest.mark.service
def test_a_golden_row_off_by_a_millionth_is_never_ready_and_says_why_once(home, packaged):
    stored = bento_payload(home, packaged[0]).parents[1]
    spoilt = stored.parent / "spoilt"
    shutil.copytree(stored, spoilt)
    manifest = (spoilt / "bento.yaml").read_text().replace(stored.name, "spoilt")
    (spoilt / "bento.yaml").write_text(manifest)
    golden = spoilt / "src" / "release" / "golden.parquet"
    rows = pd.read_parquet(golden)
    rows.loc[2, "expected_probability"] += 1e-6
    rows.to_parquet(golden)
    try:
        release = Release(home, "churn:spoilt", packaged[1])
        assert release.wait() is None  # it ended by itself
        log = release.log.read_text()
        assert log.count("the release does not start: golden row 2 scores 0.") == 1
        assert "Traceback" not in log
    finally:
        release.stop()
        shutil.rmtree(spoilt)


@pytest.mark.service
def test_a_worker_ends_with_its_parent(home, packaged):
    release, workers = Release(home, *packaged), []
    try:
        assert release.wait() is not None, release.log.read_text()
        workers = psutil.Process(release.process.pid).children(recursive=True)
        assert workers
        release.process.send_signal(signal.SIGKILL)
        assert not psutil.wait_procs(workers, timeout=15)[1]
    finally:
        for worker in workers:
            if worker.is_running():
                os.kill(worker.pid, signal.SIGKILL)
