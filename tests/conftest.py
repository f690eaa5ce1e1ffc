"""What many tests need: small corpora of real audio, made from the committed sample and from nothing else."""

import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import HealthCheck, settings

from operators.schema import AUDIO_TYPE

# Property tests search the same examples on every run, and take the time that they need on a busy machine.
settings.register_profile(
    "suite", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "sample" / "english"


@pytest.fixture(scope="session")
def speech_folder() -> Path | None:
    """The folder of real speech where a developer has it (../shared/speech or VOXVEIL_SPEECH), or None."""
    folder = Path(os.environ.get("VOXVEIL_SPEECH", ROOT.parent / "shared" / "speech"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def sample_rows() -> list[dict[str, Any]]:
    """All rows of the sample corpus, audio embedded, sorted by id."""
    rows = pq.read_table(SAMPLE / "index.parquet").to_pylist()
    for row in rows:
        row["audio"] = {"bytes": (SAMPLE / row["audio"]["path"]).read_bytes(), "path": None}
    return sorted(rows, key=lambda row: row["utt_id"])


@pytest.fixture(scope="session")
def sample_wave(sample_rows: list[dict[str, Any]]) -> np.ndarray:
    """One utterance of the sample corpus, float32 [samples] at 16 kHz."""
    samples, rate = soundfile.read(io.BytesIO(sample_rows[0]["audio"]["bytes"]), dtype="float32")
    assert rate == 16_000
    return samples


@pytest.fixture(scope="session")
def sample_script() -> Callable[[str], ModuleType]:
    """A function that loads a script of the folder sample, anew each time."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / "sample" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(autouse=True)
def _no_traps_left_by_speechbrain() -> Iterator[None]:
    """Take SpeechBrain's lazy modules out of `sys.modules`: looking at one raises, and hypothesis looks at all."""
    yield
    for name, module in list(sys.modules.items()):
        if type(module).__module__ == "speechbrain.utils.importutils":
            del sys.modules[name]


WriteIndex = Callable[[Path, list[dict[str, Any]]], Path]


@pytest.fixture(scope="session")
def write_index() -> WriteIndex:
    """A function that writes rows as an index and returns its path; all columns but audio are strings."""

    def write(path: Path, rows: list[dict[str, Any]]) -> Path:
        names = list(dict.fromkeys(name for row in rows for name in row))
        schema = pa.schema([(name, AUDIO_TYPE if name == "audio" else pa.string()) for name in names])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
        return path

    return write


def few(rows: list[dict[str, Any]], speakers: int, utterances: int) -> list[dict[str, Any]]:
    """Return the first `utterances` rows of each of the first `speakers` speakers."""
    chosen: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        own = chosen.setdefault(row["speaker_id"], [])
        if len(own) < utterances:
            own.append(row)
    return [row for own in list(chosen.values())[:speakers] for row in own]


@pytest.fixture(scope="session")
def few_rows(sample_rows: list[dict[str, Any]]) -> Callable[[int, int], list[dict[str, Any]]]:
    """A function that returns so many speakers with so many utterances each."""
    return lambda speakers, utterances: few(sample_rows, speakers, utterances)
