"""Ranking. Takes scored chunks; writes one Parquet file in the order of who is contacted first, within bounded memory.

DuckDB sorts the few columns that decide and spills what does not fit; no feature comes here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.contract import Contract
from models.errors import DataError
from models.serving.scorer import CHUNK_ROWS, WHYS
from tasks.data.lake_sql import spill_folder
from tasks.home import Home, check_memory_limit

_DECISIONS: Final = ("contact", "leave")
# First who is contacted, last who has left already; within each by what a contact would bring.
_ORDERED: Final = f"""
    SELECT entity, churn_probability, why, expected_value FROM scored
    ORDER BY CASE why WHEN 0 THEN 0 WHEN {WHYS.index("not_eligible")} THEN 2 ELSE 1 END, expected_value DESC, entity"""


def write_ranked(
    chunks: Iterable[pa.RecordBatch], file: Path, *, contract: Contract, release_id: str, as_of: datetime,
    contact_budget: int, home: Home, memory_limit: str,
) -> None:
    """Rank all rows of the chunks and write them; the same rows give the same bytes.

    Args:
        chunks: of the schema `chunks.SLIM`; `why` is a place in `scorer.WHYS`, an entity comes once.
        contact_budget: how many contacts, by rank, are `within_budget`.
        memory_limit: what DuckDB may hold, "4GB"; it changes no byte of the file.

    Raises:
        DataError: DuckDB cannot sort them within the limit.
    """
    check_memory_limit(memory_limit)
    schema = _schema(contract)
    with spill_folder(home) as spill:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit, "temp_directory": spill, "threads": 1,  # rows are few and slim: sharing costs
            "autoinstall_known_extensions": False,
        }
        with duckdb.connect(config=config) as connection:
            connection.execute("SET enable_progress_bar = false")
            connection.execute("CREATE TABLE scored (entity VARCHAR, churn_probability DOUBLE, why TINYINT, "
                               "expected_value DOUBLE)")
            for chunk in chunks:
                try:
                    connection.register("chunk", pa.Table.from_batches([chunk]))
                    connection.execute("INSERT INTO scored FROM chunk")
                    connection.unregister("chunk")
                except duckdb.Error as error:
                    raise _cannot_rank(error, memory_limit) from error
            try:
                # Without Arrow's own schema in the file: words that repeat are read as plain text.
                with pq.ParquetWriter(file, schema, compression="zstd", store_schema=False) as writer:
                    first = 1
                    for batch in connection.sql(_ORDERED).to_arrow_reader(CHUNK_ROWS):
                        writer.write_batch(_shown(batch, schema, first=first, release_id=release_id, as_of=as_of,
                                                  contact_budget=contact_budget))
                        first += batch.num_rows
            except duckdb.Error as error:
                raise _cannot_rank(error, memory_limit) from error


def _schema(contract: Contract) -> pa.Schema:
    words = pa.dictionary(pa.int8(), pa.string())
    return pa.schema({
        "rank": pa.uint32(), contract.entity_key: pa.string(), "churn_probability": pa.float64(), "decision": words,
        "why": words, "expected_value": pa.float64(), "release_id": words, "as_of": pa.timestamp("us", "UTC"),
        "within_budget": pa.bool_(),
    })


def _shown(
    batch: pa.RecordBatch, schema: pa.Schema, *, first: int, release_id: str, as_of: datetime, contact_budget: int
) -> pa.RecordBatch:
    rows = batch.num_rows
    rank = np.arange(first, first + rows, dtype=np.uint32)
    left = (batch.column("why").to_numpy() != 0).astype(np.int8)
    columns = [
        pa.array(rank), batch.column("entity"), batch.column("churn_probability"),
        pa.DictionaryArray.from_arrays(pa.array(left), pa.array(_DECISIONS)),
        pa.DictionaryArray.from_arrays(batch.column("why"), pa.array(WHYS)), batch.column("expected_value"),
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([release_id])),
        pa.array(np.full(rows, int(as_of.timestamp() * 1e6)), pa.int64()).cast(pa.timestamp("us", "UTC")),
        # The threshold was chosen before this cut: where it lets more through than the budget, the first by rank go.
        pa.array((left == 0) & (rank <= contact_budget)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cannot_rank(error: Exception, memory_limit: str) -> DataError:
    return DataError(f"cannot rank the scores within {memory_limit}: {str(error).splitlines()[0]}. Raise "
                     "CHURN_MEMORY_LIMIT")
