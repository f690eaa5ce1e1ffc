"""The neural anonymizer by command, with weights from MLflow's registry: bank, anonymization, and what is refused.

The weights are random, so the speech is noise; what is shown is that every part is reached.
"""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as pds
import pytest
import soundfile
from mlflow import MlflowClient

from models.streamvoiceanon.checkpoint import save_converted
from models.streamvoiceanon.shapes import MINI
from models.streamvoiceanon.training.initial import fresh_networks

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def voxveil(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "160"},
    )


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder whose MLflow registry holds a model of random weights, version 1, as `candidate`."""
    folder = tmp_path_factory.mktemp("neural")
    save_converted(folder / "weights", fresh_networks(MINI, seed=0), MINI, {})
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    client.create_registered_model("small voice")
    client.create_model_version("small voice", (folder / "weights").as_uri())
    client.set_registered_model_alias("small voice", "candidate", "1")
    return folder


@pytest.fixture(scope="module")
def index(output: Path, few_rows: Callable[..., list[dict[str, Any]]], write_index: Callable[..., Path]) -> Path:
    return write_index(output / "index.parquet", few_rows(2, 2))


@pytest.fixture(scope="module")
def bank(output: Path, index: Path) -> Path:
    result = voxveil("voices", "build", index, output / "bank.parquet", "--model", output / "weights", "--seconds", "2")
    assert result.returncode == 0, result.stderr
    assert "2 voices" in result.stdout
    return output / "bank.parquet"


def test_a_corpus_is_anonymized_with_a_registered_model(output: Path, index: Path, bank: Path) -> None:
    model = "models:/small voice@candidate"
    result = voxveil(
        *("anonymize", "--index", index, "--name", "calls", "--output", output),
        *("--anonymizer", "streamvoiceanon", "--model", model, "--voices", bank),
    )
    assert result.returncode == 0, result.stderr
    assert (output / "models" / "small%20voice" / "1").is_dir()
    (staged,) = (output / "calls" / "runs").glob("*/staged")
    rows = pds.dataset(staged, format="parquet").to_table().to_pylist()
    originals = pds.dataset(index, format="parquet").to_table().to_pylist()
    durations = sorted(soundfile.info(io.BytesIO(row["audio"]["bytes"])).frames for row in rows)
    assert durations == sorted(soundfile.info(io.BytesIO(row["audio"]["bytes"])).frames for row in originals)
    wave, rate = soundfile.read(io.BytesIO(rows[0]["audio"]["bytes"]))
    assert rate == 16_000
    assert np.abs(wave).max() > 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/small voice/7", "registry has no such version"),
        ("models:/small voice@nobody", "registry has no such version"),
        ("models:/small", "write models:/name/version or models:/name@alias"),
        ("no/such/folder", "no folder no/such/folder"),
    ],
)
def test_a_model_that_is_not_there_is_named_in_one_line(
    model: str, message: str, output: Path, index: Path, bank: Path
) -> None:
    result = voxveil(
        *("anonymize", "--index", index, "--name", "refused", "--output", output),
        *("--anonymizer", "streamvoiceanon", "--model", model, "--voices", bank),
    )
    assert result.returncode == 2, result.stderr
    assert message in result.stderr.strip().splitlines()[-1]
    assert not (output / "refused").exists()
