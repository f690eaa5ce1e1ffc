"""Recognises the emotion of an utterance: neutral, happy, sad or angry.

Two recognisers. `EmotionHead` is this project's own: a linear classifier on the mean and standard deviation of
Whisper's encoder frames (`models.whisper.frame_statistics`), trained by `pipelines.train_emotion`. `SpeechBrainEmotion`
is the published wav2vec2 model fine-tuned on IEMOCAP, which hears the waves themselves.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models import hyperparameters

if TYPE_CHECKING:
    import torch

CLASSES = ("neutral", "happy", "sad", "angry")
SYNONYMS = {
    "neutral": ("neutral", "neu", "neutrality", "n"),
    "happy": ("happy", "hap", "happiness", "joy", "h"),
    "sad": ("sad", "sadness", "s"),
    "angry": ("angry", "ang", "anger", "a"),
}

Wave = NDArray[np.float32]


def canonical(label: str) -> str | None:
    """Return the class that a corpus's label stands for (`happiness` is `happy`), None for one outside the classes."""
    folded = label.strip().lower()
    return next((name for name, synonyms in SYNONYMS.items() if folded in synonyms), None)


@dataclass(frozen=True)
class EmotionHead:
    """Multinomial logistic regression on Whisper frame statistics, standardisation folded in.

    `weight` is [4, 2 * D], `bias` [4], both in the order of `CLASSES`. `speakers` holds a second head for each speaker
    of the training corpus, trained on all the others: an audit of that very corpus must use those (`for_speaker`), or
    it reports how well the head remembers its training data. `metadata` says what it was trained on, and its figures.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    speakers: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    metadata: dict[str, str]

    @classmethod
    def load(cls, path: Path) -> "EmotionHead":
        """Read a head from a safetensors file that `save` wrote. Raises ValueError for any other."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                metadata = json.loads((file.metadata() or {}).get("emotion_head", "{}"))
                tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
        names = metadata.pop("speakers", [])
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        width = shapes.get("weight", (0, 0))[-1]
        expected: dict[str, tuple[int, ...]] = {"weight": (len(CLASSES), width), "bias": (len(CLASSES),)}
        if names:
            expected |= {f"speaker_{name}": (len(names), *shape) for name, shape in expected.items()}
        if metadata.pop("classes", None) != list(CLASSES) or shapes != expected:
            raise ValueError(f"{path} is not an emotion head for {', '.join(CLASSES)}")
        heads = {
            name: (tensors["speaker_weight"][index], tensors["speaker_bias"][index]) for index, name in enumerate(names)
        }
        return cls(tensors["weight"], tensors["bias"], heads, metadata)

    def save(self, path: Path) -> None:
        """Write the head as safetensors, the heads of `speakers` in half precision. Equal heads give equal bytes."""
        from safetensors.numpy import save_file

        tensors = {"weight": self.weight, "bias": self.bias}
        if self.speakers:
            tensors["speaker_weight"] = np.stack([weight for weight, _ in self.speakers.values()]).astype(np.float16)
            tensors["speaker_bias"] = np.stack([bias for _, bias in self.speakers.values()]).astype(np.float32)
        metadata = self.metadata | {"classes": CLASSES, "speakers": list(self.speakers)}
        # safetensors writes the memory as it lies, and scikit-learn's coefficients lie column by column; it writes
        # several entries of metadata in any order, so here is one.
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        save_file(contiguous, path, {"emotion_head": json.dumps(metadata, sort_keys=True)})

    def predict(self, statistics: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return class probabilities [N, 4], in the order of `CLASSES`, for frame statistics [N, 2 * D].

        Raises ValueError where the statistics come from an encoder of another width than the head was trained on.
        """
        if statistics.ndim != 2 or statistics.shape[1] != self.weight.shape[1]:
            raise ValueError(f"this emotion head takes [N, {self.weight.shape[1]}] statistics, not {statistics.shape}")
        return _softmax(statistics @ self.weight.T + self.bias)

    def for_speaker(self, speaker: str) -> "EmotionHead":
        """Return the head that never heard `speaker`; for a speaker outside the training corpus that is this one."""
        if speaker not in self.speakers:
            return self
        weight, bias = self.speakers[speaker]
        return EmotionHead(weight, bias, {}, self.metadata)


class SpeechBrainEmotion:
    """The wav2vec2 recogniser in the layout of `speechbrain/emotion-recognition-wav2vec2-IEMOCAP`.

    Reads `wav2vec2.ckpt`, `model.ckpt`, `label_encoder.txt` and, as plain data, `hyperparams.yaml` of a folder into
    torchaudio's wav2vec2. The Python code in that repository is not run, and neither `transformers` nor the weights of
    the base model are needed. Raises ValueError for a folder of another layout.
    """

    sample_rate = 16_000

    def __init__(self, path: Path, device: str = "cpu") -> None:
        import torch

        path = Path(path)
        state = torch.load(path / "wav2vec2.ckpt", map_location="cpu", weights_only=True)
        output = torch.load(path / "model.ckpt", map_location="cpu", weights_only=True)
        self._wav2vec2 = _wav2vec2(state).to(device).eval()
        self._output = next(iter(output.values())).to(device)  # [classes, D], no bias
        self._columns = _class_columns(path / "label_encoder.txt")
        encoder_settings = hyperparameters.read(path / "hyperparams.yaml").get("wav2vec2", {})
        self._normalise_output = bool(encoder_settings.get("output_norm", False))
        self._device = device

    def predict(self, waves: Sequence[Wave]) -> NDArray[np.float32]:
        """Return class probabilities [N, 4], in the order of `CLASSES`, for waves, float32 [samples] at 16 kHz.

        Utterances go through one at a time: the model was trained without masks, and padding would change its answer.
        """
        import torch

        rows = []
        for wave in waves:
            with torch.inference_mode():
                logits = self._frames(wave).mean(dim=1) @ self._output.T
            rows.append(logits[0, self._columns].cpu().numpy())
        return _softmax(np.stack(rows)) if rows else np.zeros((0, len(CLASSES)), np.float32)

    def frames(self, wave: Wave) -> NDArray[np.float32]:
        """Return what the linear head reads the mean of, [frames, D], 50 frames a second, one at least."""
        import torch

        with torch.inference_mode():
            return self._frames(wave)[0].cpu().numpy()

    def _frames(self, wave: Wave) -> "torch.Tensor":
        import torch
        from torch.nn.functional import layer_norm

        padded = np.pad(wave, (0, max(0, 400 - len(wave))))  # one frame at least
        samples = torch.from_numpy(padded).to(self._device)[None]
        frames, _ = self._wav2vec2(layer_norm(samples, samples.shape[1:]))
        if self._normalise_output:  # over time and channels at once, as SpeechBrain's output_norm
            frames = layer_norm(frames, frames.shape[1:])
        return frames


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def _wav2vec2(state: dict[str, "torch.Tensor"]) -> "torch.nn.Module":
    """Build torchaudio's wav2vec 2.0 (the base layout) with the sizes and weights of a Hugging Face state dict."""
    from torchaudio.models import wav2vec2_model

    weights = {_torchaudio_name(name): tensor for name, tensor in state.items() if "masked_spec_embed" not in name}
    kernels = [(10, 5)] + [(3, 2)] * 4 + [(2, 2)] * 2  # (width, stride), wav2vec 2.0 section 4.2
    transformer = "encoder.transformer."
    try:
        channels = weights["feature_extractor.conv_layers.0.conv.weight"].shape[0]
        position = weights[f"{transformer}pos_conv_embed.conv.parametrizations.weight.original1"]
        dimension, grouped, kernel = position.shape
        layers = len({name.split(".")[3] for name in weights if name.startswith(f"{transformer}layers.")})
        inner = weights[f"{transformer}layers.0.feed_forward.intermediate_dense.weight"].shape[0]
        network = wav2vec2_model(
            extractor_mode="group_norm",
            extractor_conv_layer_config=[(channels, width, stride) for width, stride in kernels],
            extractor_conv_bias=False,
            encoder_embed_dim=dimension,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=kernel,
            encoder_pos_conv_groups=dimension // grouped,
            encoder_num_layers=layers,
            encoder_num_heads=dimension // 64,
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=inner,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=False,
            encoder_layer_drop=0.0,
            aux_num_out=None,
        )
        network.load_state_dict(weights)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"wav2vec2.ckpt is not a wav2vec 2.0 base model: {error}") from error
    return network


def _torchaudio_name(name: str) -> str:
    """Translate a parameter's name from Hugging Face transformers (of any age) to torchaudio."""
    name = name.removeprefix("model.")
    if name.startswith("feature_projection."):
        return f"encoder.{name}"
    if name.startswith("encoder."):
        name = name.replace("encoder.", "encoder.transformer.", 1)
    parametrized = "conv.parametrizations.weight.original"
    return name.replace("conv.weight_g", f"{parametrized}0").replace("conv.weight_v", f"{parametrized}1")


def _class_columns(path: Path) -> list[int]:
    """Return the output column of each of `CLASSES`, from SpeechBrain's label file (lines such as `'neu' => 0`)."""
    columns = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        label, arrow, column = line.partition("=>")
        name = canonical(label.strip().strip("'\"")) if arrow else None
        if name:
            columns[name] = int(column)
    if columns.keys() != set(CLASSES):
        raise ValueError(f"{path} does not name {', '.join(CLASSES)}")
    return [columns[name] for name in CLASSES]
