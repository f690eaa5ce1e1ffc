"""The anonymizers by name, for the pipeline and for live streaming alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models import registry
from models.anonymizer import Anonymizer

Context = Literal["auto", "full", "causal"]
Prosody = Literal["auto", "full", "reduced"]
ANONYMIZERS = ("streamvoiceanon", "mcadams", "identity")


@dataclass(frozen=True)
class AnonymizerSpec:
    """Which anonymizer, and what it loads.

    `model` (a folder or a Hugging Face repository), `voices` (a voice bank) and `alpha` (1: the bank's voices as they
    are, 0: noise alone) are streamvoiceanon's; without a model it is the embedded one, with its own bank where none is
    named. `device` is cpu or cuda, where `compiled` asks for torch.compile. `context` says how whole utterances are
    heard and `prosody` how much is kept of how they are said, as `StreamVoiceAnon` has it.
    """

    name: str
    model: str | None = None
    voices: str | None = None
    alpha: float = 1.0
    device: str = "cpu"
    compiled: bool = False
    context: Context = "causal"
    prosody: Prosody = "auto"

    def check(self) -> None:
        """Raise ValueError, one line, where the name is unknown or something that it needs was not named."""
        if self.name not in ANONYMIZERS:
            raise ValueError(f"no anonymizer is called {self.name!r}; there are {', '.join(ANONYMIZERS)}")
        if self.neural and self.model and not self.voices:
            raise ValueError(
                f"the model {self.model} needs a voice bank of its own: --voices BANK, made by "
                f"`voxveil voices build INDEX BANK --model {self.model}`"
            )
        if self.context == "full" and not self.neural:
            raise ValueError(f"full context is for streamvoiceanon: {self.name} hears no words")
        if self.prosody == "reduced" and not self.neural:
            raise ValueError(f"reduced prosody is for streamvoiceanon: {self.name} keeps all of it")
        if self.compiled and (self.name != "streamvoiceanon" or self.device == "cpu"):
            raise ValueError("torch.compile is for streamvoiceanon on a GPU: leave `compile` out, or ask for gpus")

    @property
    def neural(self) -> bool:
        """Whether it loads weights at all."""
        return self.name == "streamvoiceanon"

    def weights(self) -> tuple[str, Path]:
        """Return what streamvoiceanon loads: its model, a folder or a repository, and its voice bank.

        Raises WeightsMissing and WeightsChanged where they are the embedded ones and not what they should be.
        """
        if self.model and self.voices:
            return self.model, Path(self.voices)
        embedded = registry.resolve(registry.ANONYMIZER).path
        return str(embedded), Path(self.voices) if self.voices else embedded / registry.VOICES


def load_anonymizer(spec: AnonymizerSpec, sample_rate: int) -> Anonymizer:
    """Load the anonymizer that `spec` describes. Raises ValueError as `AnonymizerSpec.check`, and CheckpointError.

    `sample_rate` (hertz) is the job's; an anonymizer bound to one rate keeps its own, and the caller resamples.
    """
    spec.check()
    if spec.name == "mcadams":
        from models.mcadams import McAdams

        return McAdams(sample_rate)
    if spec.name == "identity":
        from models.identity import Identity

        return Identity(sample_rate)
    from models.streamvoiceanon import StreamVoiceAnon, VoiceBank

    model, voices = spec.weights()
    return StreamVoiceAnon.from_pretrained(
        model,
        voices=VoiceBank.load(voices),
        alpha=spec.alpha,
        device=spec.device,
        compiled=spec.compiled,
        context=spec.context,
        prosody=spec.prosody,
    )
