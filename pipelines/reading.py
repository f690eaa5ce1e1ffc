"""What a pass reads: rows of Parquet files, and which of them a former try finished."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.fs

from operators.select import Select

if TYPE_CHECKING:
    import ray.data


def read_view(folder: str, files: Sequence[str], select: Select, schema: pa.Schema) -> "ray.data.Dataset":
    """Return the rows that `select` keeps of some Parquet files on the file system of `folder`, lazily."""
    import ray.data

    columns = [name for name in dict.fromkeys(("utt_id", "speaker_id", *select.columns)) if name in schema.names]
    filesystem, _ = pyarrow.fs.FileSystem.from_uri(folder)
    dataset = ray.data.read_parquet(list(files), filesystem=filesystem, columns=columns)
    return dataset.map_batches(select.__call__, batch_size=None, batch_format="pyarrow", num_cpus=0.25)


def finished_ids(folder: Path, view: str) -> frozenset[str]:
    """Return the ids of a view that lie in finished parts."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        return frozenset()
    table = pds.dataset(files, format="parquet").to_table(columns=["utt_id"], filter=pds.field("view") == view)
    return frozenset(table["utt_id"].to_pylist())
