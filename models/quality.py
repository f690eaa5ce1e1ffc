"""Speech quality without a reference: DNSMOS P.835 and P.808, by the networks in the PyPI package speechmos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.mel import mel_spectrogram

SAMPLE_RATE = 16_000
WINDOW = 144_160  # samples, 9.01 s: what the networks hear at once
SCALES = {"overall": "ovrl_mos", "signal": "sig_mos", "background": "bak_mos", "p808": "p808_mos"}

Wave = NDArray[np.float32]


class Dnsmos:
    """The DNSMOS networks of a folder (`sig_bak_ovr.onnx`, `model_v8.onnx`), on `threads` CPU threads.

    Scores are on the opinion scale, 1 (bad) to 5 (excellent), and are the mean over 9-second windows that overlap by
    half or more. (The published script moves its window by a second. On LibriSpeech test-other that costs at least 1.7
    times as much and moves the corpus's mean by less than 0.01, one utterance's overall score by 0.15 at most.) The
    networks need nine seconds: like that script this repeats a shorter clip until it is long enough, so scores of clips
    of a second or two are rough and serve for comparing like with like, original against anonymized.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime
        from speechmos.dnsmos import DNSMOS

        self._dnsmos = DNSMOS(str(path / "sig_bak_ovr.onnx"), str(path / "model_v8.onnx"))
        # DNSMOS opens its sessions on every core, but a pool of workers wants one each.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        for name, file in (("onnx_sess", "sig_bak_ovr.onnx"), ("p808_onnx_sess", "model_v8.onnx")):
            session = onnxruntime.InferenceSession(str(path / file), options, providers=["CPUExecutionProvider"])
            setattr(self._dnsmos, name, session)
        self._dnsmos.audio_melspec = lambda audio: _decibels(mel_spectrogram(audio, window=321, bands=120))

    def score(self, waves: Sequence[Wave]) -> dict[str, NDArray[np.float32]]:
        """Return `overall`, `signal`, `background` and `p808`, each [N], for waves, float32 [samples] at 16 kHz.

        Samples beyond full scale are clipped; a wave without samples scores NaN.
        """
        rows = [self._score(np.clip(wave, -1.0, 1.0)) for wave in waves]
        return {scale: np.array([row[scale] for row in rows], np.float32) for scale in SCALES}

    def _score(self, wave: Wave) -> dict[str, float]:
        if not len(wave):
            return dict.fromkeys(SCALES, float("nan"))
        # Each window has exactly the length that speechmos scores once, so the choice of windows stays here.
        scores = [self._dnsmos(window, SAMPLE_RATE, is_personalized_MOS=False) for window in _windows(wave)]
        return {scale: float(np.mean([score[key] for score in scores])) for scale, key in SCALES.items()}


def _decibels(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return mel power as the P.808 network takes it: decibels under the loudest, 80 at most, scaled to [-1, 1]."""
    loudest = max(float(power.max()), 1e-10)
    decibels = 10 * np.log10(np.maximum(power, 1e-10) / loudest)
    return ((np.maximum(decibels, -80.0) + 40.0) / 40.0).astype(np.float32)


def _windows(wave: Wave) -> list[Wave]:
    """Spread windows evenly from the start to the end, half a window apart at most; repeat what is shorter than one."""
    if len(wave) <= WINDOW:
        return [np.resize(wave, WINDOW)]
    beyond = len(wave) - WINDOW
    starts = np.linspace(0, beyond, 1 + -(-beyond // (WINDOW // 2))).astype(int)
    return [wave[start : start + WINDOW] for start in starts]
