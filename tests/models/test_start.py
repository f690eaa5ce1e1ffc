"""What the embedded models need to start, and what they leave alone."""

import subprocess
import sys
from pathlib import Path

ANONYMIZER = """
import sys
from models.catalogue import AnonymizerSpec, load_anonymizer

load_anonymizer(AnonymizerSpec("streamvoiceanon"), 16_000)
print(*(name for name in ("pandas", "faster_whisper") if name in sys.modules))
"""
CODE = """
import sys
import numpy as np
from models import registry, speaker
from models.quality import Dnsmos

profile = registry.PROFILES["embedded"]
wave = np.sin(np.arange(32_000) / 10).astype(np.float32)
speaker.load(registry.resolve(profile["speaker"]).path).embed([wave])
Dnsmos(registry.resolve(profile["quality"]).path).score([wave])
print(*(name for name in ("librosa.core.spectrum", "librosa.feature.spectral") if name in sys.modules))
"""


def run(code: str) -> str:
    """Return what a fresh interpreter prints."""
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def test_speaker_and_quality_models_leave_librosa_and_its_compiler_alone() -> None:
    assert run(CODE) == ""


def test_a_call_waits_for_no_tables_and_no_recogniser() -> None:
    """Each takes as long to load as the network itself."""
    assert run(ANONYMIZER) == ""
