"""An ECAPA-TDNN that can be trained: SpeechBrain's network under its additive-angular-margin loss.

What is trained is written in the layout of `speechbrain/spkrec-ecapa-voxceleb`, which `models.speaker.Ecapa` and
SpeechBrain itself load. It knows nothing of optimizers, of files of speech or of how the speech was anonymized.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from models import hyperparameters

BANDS = 80  # of the mel spectrogram
NETWORK = {"kernel_sizes": [5, 3, 3, 3, 1], "dilations": [1, 2, 3, 4, 1]}
# Of the additive-angular-margin loss, in SpeechBrain's recipe for VoxCeleb.
MARGIN, SCALE = 0.2, 30.0
WEIGHTS, SETTINGS = "embedding_model.ckpt", "hyperparams.yaml"


@dataclass(frozen=True)
class EcapaSize:
    """How wide the network is; the defaults are those of the published one."""

    channels: int = 1024
    attention_channels: int = 128
    embedding: int = 192

    @property
    def arguments(self) -> dict[str, Any]:
        """What SpeechBrain's ECAPA_TDNN is built with."""
        channels = [self.channels] * 4 + [3 * self.channels]
        sizes = {"channels": channels, "attention_channels": self.attention_channels, "lin_neurons": self.embedding}
        return {"input_size": BANDS, **sizes, **NETWORK}


class Voices(nn.Module):
    """The network with the voices that it is trained to tell apart: waves in, a cosine for each speaker out."""

    def __init__(self, arguments: dict[str, Any], speakers: int) -> None:
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
        from speechbrain.processing.features import InputNormalization

        super().__init__()
        self.embedder = ECAPA_TDNN(**arguments)
        self.classifier = Classifier(arguments.get("lin_neurons", 192), out_neurons=speakers)
        self.features = Fbank(n_mels=arguments["input_size"])
        self.normalise = InputNormalization(norm_type="sentence", std_norm=False)

    def embed(self, waves: Tensor) -> Tensor:
        """Return embeddings [B, D] of unit length for waves [B, T] at 16 kHz, all of one length."""
        whole = torch.ones(len(waves), device=waves.device)
        with torch.no_grad():
            features = self.normalise(self.features(waves), whole)
        return nn.functional.normalize(self.embedder(features, whole).squeeze(1))

    def forward(self, waves: Tensor) -> Tensor:
        """Return the cosines [B, speakers] of waves [B, T] with every speaker."""
        return self.classifier(self.embed(waves).unsqueeze(1)).squeeze(1)


class SpeakerTask:
    """Tell the training speakers apart, by the margin loss; held-out speakers say how well that carries over.

    A training batch has `waves` [B, T] and `speakers` [B] (numbers); a batch of held-out speech has the utterances of
    one person in pairs, rows 2 i and 2 i + 1. Both have `lengths` [B], in samples.
    """

    exported: tuple[str, ...] = ("voices",)

    def __init__(self, arguments: dict[str, Any], speakers: int) -> None:
        from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper

        self.arguments = arguments
        self.voices = Voices(arguments, speakers)
        self.players: dict[str, nn.Module] = {"voices": self.voices}
        self._loss = LogSoftmaxWrapper(AdditiveAngularMargin(margin=MARGIN, scale=SCALE))

    def losses(self, player: str, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss, and the share of utterances given to the right speaker."""
        cosines, speakers = self.players[player](batch["waves"]), batch["speakers"]
        loss = self._loss(cosines.unsqueeze(1), speakers.unsqueeze(1))
        return {"total": loss, "accuracy": (cosines.argmax(dim=1) == speakers).float().mean()}

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return how well an utterance of people never trained on finds its partner among those of all others.

        `total` is the cross-entropy, in nats, of the cosines, scaled as in training; `found` the share of partners
        with the highest one.
        """
        embeddings = self.voices.embed(batch["waves"])
        cosines = embeddings[::2] @ embeddings[1::2].T
        partner = torch.arange(len(cosines), device=cosines.device)
        found = (cosines.argmax(dim=1) == partner).float().mean()
        return {"total": nn.functional.cross_entropy(SCALE * cosines, partner), "found": found}

    def export(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights of the network alone."""
        return {"embedder": self.voices.embedder.state_dict()}


def read_ecapa(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what the ECAPA-TDNN of a folder is built with, and its weights. Raises ValueError for another layout."""
    try:
        arguments = dict(hyperparameters.read(folder / SETTINGS)["embedding_model"])
        weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for a file that is none of its own is of many kinds
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ValueError(f"{folder} is not an ECAPA-TDNN as SpeechBrain lays it out: {why}") from error
    return arguments, weights


def write_ecapa(folder: Path, arguments: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write a network into a folder, which is made. Equal networks give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    torch.save(plain, folder / WEIGHTS)
    settings = {"compute_features": {"n_mels": arguments["input_size"]}, "embedding_model": arguments}
    (folder / SETTINGS).write_text(yaml.safe_dump(settings, sort_keys=True), encoding="utf-8")
