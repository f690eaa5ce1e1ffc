"""Speaker encoders, the eyes of the speaker-verification attacker: a voice becomes a unit vector.

`GE2E` is the generalised end-to-end encoder of the Resemblyzer package (the embedded profile); `Ecapa` is SpeechBrain's
ECAPA-TDNN (the standard profile, or one that an attacker trained). They know nothing of trials or scores.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models import hyperparameters
from models.mel import mel_spectrogram

SAMPLE_RATE = 16_000
BATCH = 64  # partial utterances a forward pass

Wave = NDArray[np.float32]


class SpeakerEncoder(Protocol):
    """Turns utterances into vectors whose cosine says how alike the voices are."""

    sample_rate: int

    def embed(self, waves: Sequence[Wave]) -> NDArray[np.float32]:
        """Return one L2-normalised row an utterance, [N, D], for waves, float32 [samples] at `sample_rate`."""
        ...


def load(path: Path, device: str = "cpu") -> SpeakerEncoder:
    """Load the encoder at `path`: a folder is an ECAPA-TDNN, a file is Resemblyzer's GE2E."""
    return Ecapa(path, device) if path.is_dir() else GE2E(path, device)


class GE2E:
    """Resemblyzer's encoder: 256 dimensions, the mean over 1.6-second partial utterances.

    Utterances are levelled and stripped of long silences as Resemblyzer does; where its voice activity detector finds
    no speech at all (whispers, fragments), the whole utterance is embedded.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, path: Path, device: str = "cpu") -> None:
        from resemblyzer import VoiceEncoder

        self._encoder = VoiceEncoder(device, verbose=False, weights_fpath=path)

    def embed(self, waves: Sequence[Wave]) -> NDArray[np.float32]:
        """Return [N, 256]; what an utterance becomes does not depend on the others."""
        import torch

        partials = [self._partials(wave) for wave in waves]
        if not partials:
            return np.zeros((0, self._encoder.linear.out_features), np.float32)
        together = torch.from_numpy(np.concatenate(partials))
        with torch.inference_mode():
            embedded = torch.cat([self._encoder(part.to(self._encoder.device)) for part in together.split(BATCH)]).cpu()
        means = [part.mean(dim=0) for part in embedded.split([len(part) for part in partials])]
        return _normalise(torch.stack(means).numpy())

    def _partials(self, wave: Wave) -> NDArray[np.float32]:
        """Return the mel spectrograms [partials, 160, 40] of an utterance's overlapping 1.6-second pieces."""
        speech = _speech(wave)
        slices, mel_slices = self._encoder.compute_partial_slices(len(speech), rate=1.3, min_coverage=0.75)
        padded = np.pad(speech, (0, max(0, slices[-1].stop - len(speech))))
        mel = mel_spectrogram(padded, window=400, bands=40)
        return np.stack([mel[piece] for piece in mel_slices])


class Ecapa:
    """SpeechBrain's ECAPA-TDNN in the layout of `speechbrain/spkrec-ecapa-voxceleb`.

    Reads the sizes of the network from the folder's `hyperparams.yaml`, as plain data, and its weights from
    `embedding_model.ckpt`. Raises ValueError for another layout.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, path: Path, device: str = "cpu") -> None:
        import torch
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
        from speechbrain.processing.features import InputNormalization

        settings = hyperparameters.read(path / "hyperparams.yaml")
        try:
            bands = settings["compute_features"]["n_mels"]
            self.network = ECAPA_TDNN(**settings["embedding_model"])
            weights = torch.load(path / "embedding_model.ckpt", map_location="cpu", weights_only=True)
            self.network.load_state_dict(weights)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} is not an ECAPA-TDNN as SpeechBrain lays it out: {error}") from error
        self.network.to(device).eval()
        self._features = Fbank(n_mels=bands).to(device).eval()
        self._normalise = InputNormalization(norm_type="sentence", std_norm=False).to(device).eval()
        self._device = device

    def embed(self, waves: Sequence[Wave]) -> NDArray[np.float32]:
        """Return [N, D]. Utterances go through one at a time, so that padding changes none of them."""
        import torch

        rows = []
        for wave in waves:
            padded = np.pad(wave, (0, max(0, SAMPLE_RATE // 10 - len(wave))))
            with torch.inference_mode():
                whole = torch.ones(1, device=self._device)
                features = self._features(torch.from_numpy(padded).to(self._device)[None])
                rows.append(self.network(self._normalise(features, whole), whole)[0, 0].cpu().numpy())
        return _normalise(np.stack(rows)) if rows else np.zeros((0, self.network.fc.conv.out_channels), np.float32)


def _speech(wave: Wave) -> Wave:
    """Return the wave levelled to -30 dBFS where it is quieter, without its long silences."""
    from resemblyzer.audio import normalize_volume, trim_long_silences
    from resemblyzer.hparams import audio_norm_target_dBFS

    if not np.any(wave):
        return wave
    levelled = np.clip(normalize_volume(wave, audio_norm_target_dBFS, increase_only=True), -1.0, 1.0)
    window = 480  # 30 ms, the detector's: it fails on less
    trimmed = trim_long_silences(levelled) if len(levelled) >= window else levelled
    return (trimmed if len(trimmed) else levelled).astype(np.float32)


def _normalise(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
