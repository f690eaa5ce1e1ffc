"""The models of the embedded profile start without compiling anything."""

import subprocess
import sys
from pathlib import Path

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


def test_speaker_and_quality_models_leave_librosa_and_its_compiler_alone() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", CODE], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == ""
