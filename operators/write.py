"""Write: a batch becomes one Parquet part, whole or not at all, and the batch that goes on is only its receipt.

A part's name is the digest of its rows' ids, so that a batch that a dying worker left half-done is written over, not
beside. A run that was cut resumes by reading which ids lie in finished parts.
"""

import hashlib
import os
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.decode import Batch


class WriteParts:
    """Writes the columns of `schema` into `folder`; the receipt has `rows` and `unusable` (rows with a reason)."""

    def __init__(self, folder: str, schema: pa.Schema, rows_per_group: int = 1024) -> None:
        self.folder = Path(folder)
        self.schema = schema
        self.rows_per_group = rows_per_group
        self.needs = tuple(schema.names)

    def __call__(self, batch: Batch) -> Batch:
        columns = [pa.array(list(batch[field.name]), field.type, from_pandas=True) for field in self.schema]
        keys = zip(batch["view"], batch["utt_id"], strict=True)
        name = hashlib.sha256("\0".join(f"{view}/{utt_id}" for view, utt_id in keys).encode()).hexdigest()[:32]
        temporary = self.folder / f".{name}.{uuid.uuid4().hex}"
        table = pa.Table.from_arrays(columns, schema=self.schema)
        pq.write_table(table, temporary, compression="zstd", row_group_size=self.rows_per_group)
        os.replace(temporary, self.folder / f"{name}.parquet")
        unusable = sum(bool(reason) for reason in batch["reason"])
        return {"rows": np.array([len(batch["utt_id"])]), "unusable": np.array([unusable])}
