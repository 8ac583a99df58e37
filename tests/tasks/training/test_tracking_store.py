"""MLflow's store that is locked, damaged or out of reach: found out before MLflow is imported."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from models.errors import PlatformError
from tasks.home import Home
from tasks.training import tracking
from tasks.training.tracking import mlflow_client, store_errors
from tests.tasks.training.experiment import home_of


@contextlib.contextmanager
def locked(home: Home):
    store = sqlite3.connect(home.mlflow / "mlflow.db", isolation_level=None)
    store.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        store.execute("ROLLBACK")
        store.close()


def test_a_locked_store_is_one_line_at_once_and_not_ten_tries(tmp_path, monkeypatch):
    home = home_of(tmp_path)
    home.mlflow.mkdir()
    monkeypatch.setattr(tracking, "LOCKED_SECONDS", 0.1)
    with locked(home), pytest.raises(PlatformError, match=r"cannot use MLflow's store .*locked\. See who else") as said:
        mlflow_client(home)
    assert "\n" not in str(said.value)


def test_a_store_that_is_locked_in_the_midst_of_a_training_is_told_to_be_locked_and_not_damaged(tmp_path):
    said = ("(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block if this flush "
            "is occurring prematurely)\n(sqlite3.OperationalError) database is locked\n[SQL: INSERT INTO metrics]")
    from mlflow.exceptions import MlflowException

    with pytest.raises(PlatformError, match=r"is locked\. See who else") as told, store_errors(home_of(tmp_path)):
        raise MlflowException(said)
    assert "\n" not in str(told.value)


def test_a_damaged_store_is_one_line(tmp_path):
    home = home_of(tmp_path)
    home.mlflow.mkdir()
    (home.mlflow / "mlflow.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(PlatformError, match=r"cannot use MLflow's store .*not a database\. Restore it"):
        mlflow_client(home)


def test_a_store_in_a_place_that_is_no_folder_is_one_line(tmp_path):
    (tmp_path / "mlflow").write_text("")
    with pytest.raises(PlatformError, match="cannot use MLflow's store"):
        mlflow_client(home_of(tmp_path))
