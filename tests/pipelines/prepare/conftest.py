"""Corpora as they are downloaded: small trees of generated audio, and the real ones where they are present."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[3]


@pytest.fixture
def write_tone() -> Callable[[Path], Path]:
    """Write a tenth of a second of a tone, whose pitch follows from the file's name, and return the path."""

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pitch = 100 + sum(path.stem.encode()) % 200
        soundfile.write(path, 0.1 * np.sin(2 * np.pi * pitch * np.arange(1600) / 16_000), 16_000)
        return path

    return write


def real_corpus(name: str) -> Path | None:
    """A folder of ../shared/speech (or of $VOXVEIL_SPEECH), where it is present."""
    folder = Path(os.environ.get("VOXVEIL_SPEECH", ROOT.parent / "shared" / "speech")) / name
    return folder if folder.is_dir() else None
