"""The mel spectrogram is librosa's, so that networks trained on that one hear what they know."""

import librosa
import numpy as np
import pytest

from models.mel import HOP, SAMPLE_RATE, mel_spectrogram


@pytest.mark.parametrize(("window", "bands"), [(400, 40), (321, 120)])
def test_it_equals_librosa_on_speech(window: int, bands: int, waves: list[np.ndarray]) -> None:
    expected = librosa.feature.melspectrogram(y=waves[0], sr=SAMPLE_RATE, n_fft=window, hop_length=HOP, n_mels=bands).T
    found = mel_spectrogram(waves[0], window, bands)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.max())
