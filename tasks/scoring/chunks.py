"""Scoring in chunks. Reads a snapshot; gives one slim row an entity, in the snapshot's order; writes nothing.

From Arrow to one block of numbers: through a frame of every column, preparing a row costs half of what scoring it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.contract import Contract
from models.errors import DataError
from models.serving.payload import Payload
from models.serving.scorer import CHUNK_ROWS, decide_all
from tasks.data.lake import undamaged

SLIM: Final = pa.schema({"entity": pa.string(), "churn_probability": pa.float64(), "why": pa.int8(),
                         "expected_value": pa.float64()})


def scored_chunks(
    snapshot: Path, payload: Payload, *, chunk_rows: int = CHUNK_ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[pa.RecordBatch]:
    """A snapshot's rows, scored and decided as the API does; of the schema `SLIM`, `why` a place in `scorer.WHYS`.

    Args:
        progress: called after each chunk with the rows scored so far and all there are.

    Raises:
        DataError: the file is damaged, or a number in it is infinite.
        ReleaseError: the pipeline gave something that is no probability.
    """
    contract = payload.contract
    with undamaged(snapshot), pq.ParquetFile(snapshot) as file:
        total, done = file.metadata.num_rows, 0
        for batch in file.iter_batches(chunk_rows, columns=[contract.entity_key, contract.eligible,
                                                            *contract.feature_names]):
            entities = batch.column(contract.entity_key)
            probability = payload.pipeline.predict_proba(arrow_frame(batch, contract))[:, 1].astype(np.float64)
            answers = decide_all(probability, entities.to_numpy(zero_copy_only=False),
                                 batch.column(contract.eligible).to_numpy(zero_copy_only=False), payload.policy)
            yield pa.RecordBatch.from_arrays([entities.cast(pa.string()), pa.array(probability), pa.array(answers.why),
                                              pa.array(answers.expected_value)], schema=SLIM)
            done += batch.num_rows
            if progress is not None:
                progress(done, total)


def arrow_frame(batch: pa.RecordBatch, contract: Contract) -> pd.DataFrame:
    """What `scorer.feature_frame` makes of the same rows: numeric as float64 with NaN, categorical as str with None.

    Raises:
        DataError: a number is infinite.
    """
    numbers = np.empty((len(contract.numeric), batch.num_rows))
    for row, name in enumerate(contract.numeric):
        numbers[row] = batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
    if not np.isfinite(numbers).all() and np.isinf(numbers).any():
        infinite = np.isinf(numbers).sum(axis=1)
        raise DataError(f"cannot score rows: {contract.numeric[int(infinite.argmax())]!r} is infinite in "
                        f"{infinite.max():,} of {batch.num_rows:,}; a ratio over zero is missing, not infinite")
    words = pd.DataFrame({name: batch.column(name).to_numpy(zero_copy_only=False).astype(object)
                          for name in contract.categorical})
    return pd.concat([pd.DataFrame(numbers.T, columns=contract.numeric, copy=False), words], axis=1)
