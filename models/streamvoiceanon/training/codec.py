"""Training the codec: speech to codes and back, so that it looks alike at several resolutions and sounds real.

Reconstruction is multi-resolution STFT and mel. Where `adversarial_weight` is not 0, discriminators of several periods
and resolutions are trained beside it, and the codec wants to pass for real and to match their features. A run may begin
without them and go on with them: the codec's weights are the same.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.streamvoiceanon.codec import Codec, Pitch
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.training.audio import within
from models.streamvoiceanon.training.discriminators import DiscriminatorConfig, Discriminators
from models.streamvoiceanon.training.listening import Listener
from models.streamvoiceanon.training.speaking import freeze_codes, speak_like
from models.streamvoiceanon.training.spectra import SpectralDistance, SpectrumConfig
from models.streamvoiceanon.training.task import Batch


@dataclass(frozen=True)
class CodecTaskConfig:
    """What the loss is made of. With `frozen_codes` the encoder stays as it is: codes mean what they meant.

    `pitch_weight` is that of how a head with a source of pulses corrects the pitch between frames, and of where it
    tells that there is one. `listening_weight` is that of how far apart original and copy are by ear, and needs the
    task's `listener`.
    """

    stft_weight: float = 1.0
    mel_weight: float = 2.0
    adversarial_weight: float = 1.0
    matching_weight: float = 2.0
    pitch_weight: float = 1.0
    listening_weight: float = 0.0
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    frozen_codes: bool = False
    seed: int = 0


class CodecTask:
    """Trains a `Codec`; its batches are `audio.collate_waves`' with `samples` and `lengths`."""

    exported: tuple[str, ...] = ("codec",)

    def __init__(
        self,
        codec: Codec,
        frames: FrameConfig,
        config: CodecTaskConfig | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.config = config or CodecTaskConfig()
        if self.config.listening_weight and listener is None:
            raise ValueError("original and copy can be compared by ear, and no listener is given")
        self._listener = listener
        self._codec = codec.train().requires_grad_(True)
        if self.config.frozen_codes:
            freeze_codes(codec)
        self._distance = SpectralDistance(frames.sample_rate, self.config.spectrum)
        self.players: dict[str, nn.Module] = {"codec": self._codec}
        if self.config.adversarial_weight:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.config.seed)
                self._discriminators = Discriminators(self.config.discriminator)
            self.players = {"discriminator": self._discriminators, **self.players}

    def losses(self, player: str, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Of the codec "total", "stft", "mel", with a listener "listening", and with discriminators "adversarial" and
        "matching"; of those "total".

        A head with a source of pulses speaks at the pitch that is measured, and has "pitch" and "voicing" as well.
        """
        if player == "discriminator":
            with torch.no_grad():
                made, _ = self._speak(batch)
            return {"total": self._discriminators.own_loss(batch["samples"], made)}
        made, told = self._speak(batch)
        figures = self._reconstruction(made, batch)
        for name, value in told.items():
            figures |= {"total": figures["total"] + self.config.pitch_weight * value, name: value.detach()}
        if self.config.adversarial_weight:
            self._discriminators.requires_grad_(False)
            judged = self._discriminators.makers_losses(batch["samples"], made)
            self._discriminators.requires_grad_(True)
            figures["total"] = (
                figures["total"]
                + self.config.adversarial_weight * judged["adversarial"]
                + self.config.matching_weight * judged["matching"]
            )
            figures |= {name: value.detach() for name, value in judged.items()}
        return figures

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction alone."""
        return self._reconstruction(self.reconstruct(batch), batch)

    def export(self) -> dict[str, dict[str, Tensor]]:
        """The codec's weights, weight normalization folded in as in every checkpoint of this project."""
        return {"codec": {key: value.detach().cpu().clone() for key, value in self._codec.state_dict().items()}}

    def reconstruct(self, batch: Batch) -> Tensor:
        """Map `samples` [B, n] through the codes and back, silent past each utterance's end."""
        codec, samples = self._codec, batch["samples"]
        made, _ = codec.synthesise(*self._quantized(samples), codec.initial_decoder_state(len(samples)))
        return made * within(batch["lengths"], samples.shape[1], 1)

    def _quantized(self, samples: Tensor) -> tuple[Tensor, Pitch | None]:
        """What the decoder reads of `samples`: features, and the pitch of the frames where it reads one."""
        codec = self._codec
        x, _ = codec.features(samples, codec.initial_encoder_state(len(samples)))
        return codec.quantizer.residual_fsq.round_trip(x, codec.heard(samples))

    def _speak(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the codec makes of `samples`; a source of pulses at their own pitch, and how far its own is off."""
        x, pitch = self._quantized(batch["samples"])
        made, told = speak_like(self._codec, x, pitch, batch["samples"])
        return made * within(batch["lengths"], batch["samples"].shape[1], 1), told

    def _reconstruction(self, made: Tensor, batch: Batch) -> dict[str, Tensor]:
        self._distance.to(made.device)
        figures = self._distance(made, batch["samples"])
        total = self.config.stft_weight * figures["stft"] + self.config.mel_weight * figures["mel"]
        if self.config.listening_weight and self._listener is not None:
            figures["listening"] = self._listener.to(made.device).distance(made, batch["samples"])
            total = total + self.config.listening_weight * figures["listening"]
        return {"total": total, **{name: value.detach() for name, value in figures.items()}}
