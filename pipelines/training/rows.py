"""Rows of prepared speech: which there are, all in memory, and what is in one, read when it is wanted."""

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from pipelines.training.pairs import Spoken

ROWS_IN_MEMORY = 2048  # about 100 kB each with a teacher's features
LABELS = ("utt_id", "speaker_id", "emotion", "text", "frames", "reason")


def timbre_of(row: dict[str, np.ndarray]) -> np.ndarray:
    """Return the timbre latents [n, width] of a row; a shape without timbre has [0, 0]."""
    latents = int(row["timbre_latents"])
    return row["timbre"].reshape(latents, -1 if latents else 0)


def wave_of(row: dict[str, np.ndarray], column: str = "audio") -> np.ndarray:
    """Return the recording of a row, float32 [n]."""
    wave, _ = soundfile.read(io.BytesIO(row[column].item()["bytes"]), dtype="float32")
    return wave


def as_array(value: pa.Scalar) -> np.ndarray:
    """Return a list as an array of its own, anything else as an array without axes."""
    return (
        value.values.to_numpy(zero_copy_only=False).copy()
        if isinstance(value, pa.ListScalar)
        else np.array(value.as_py())
    )


class Rows:
    """The usable rows below a folder of parts, by utterance id; an id that was written twice counts once."""

    def __init__(self, parts: Path) -> None:
        self.spoken: dict[str, Spoken] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        self._kept: OrderedDict[tuple[str, tuple[str, ...]], dict[str, np.ndarray]] = OrderedDict()
        for part in sorted(parts.glob("*.parquet")):
            for group, row in enumerate(pq.read_table(part, columns=list(LABELS)).to_pylist()):
                if not row["reason"]:
                    name = row["utt_id"]
                    label, text = row["emotion"] or "", row["text"] or ""
                    self.spoken[name] = Spoken(name, row["speaker_id"], label, text, row["frames"])
                    self._places[name] = part, group

    def __getstate__(self) -> dict[str, Any]:
        """Rows travel to other processes without what was read here."""
        return self.__dict__ | {"_kept": OrderedDict()}

    def read(self, utt_id: str, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Return some columns of a row as arrays; rows that were read lately are kept."""
        key = (utt_id, columns)
        if key not in self._kept:
            part, group = self._places[utt_id]
            table = pq.ParquetFile(part).read_row_group(group, columns=list(columns))
            self._kept[key] = {name: as_array(table[name].combine_chunks()[0]) for name in columns}
            if len(self._kept) > ROWS_IN_MEMORY:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
