"""The anonymizers by name, for the pipeline and for live streaming alike."""

from dataclasses import dataclass
from pathlib import Path

from models.anonymizer import Anonymizer

ANONYMIZERS = ("mcadams", "streamvoiceanon", "identity")


@dataclass(frozen=True)
class AnonymizerSpec:
    """Which anonymizer, and what it loads.

    `model` (a folder or a Hugging Face repository), `voices` (a voice bank) and `alpha` (1: the bank's voices as they
    are, 0: noise alone) are streamvoiceanon's; `device` is cpu or cuda, where `compiled` asks for torch.compile.
    """

    name: str
    model: str | None = None
    voices: str | None = None
    alpha: float = 1.0
    device: str = "cpu"
    compiled: bool = False

    def check(self) -> None:
        """Raise ValueError, one line, where the name is unknown or something that it needs was not named."""
        if self.name not in ANONYMIZERS:
            raise ValueError(f"no anonymizer is called {self.name!r}; there are {', '.join(ANONYMIZERS)}")
        if self.name == "streamvoiceanon" and not (self.model and self.voices):
            raise ValueError(
                "streamvoiceanon needs a model and a voice bank: --model FOLDER (or Plachta/StreamVoiceAnon) and "
                "--voices BANK, made by `voxveil voices build`"
            )
        if self.compiled and (self.name != "streamvoiceanon" or self.device == "cpu"):
            raise ValueError("torch.compile is for streamvoiceanon on a GPU: leave `compile` out, or ask for gpus")


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

    assert spec.model
    assert spec.voices
    bank = VoiceBank.load(Path(spec.voices))
    return StreamVoiceAnon.from_pretrained(
        spec.model, voices=bank, alpha=spec.alpha, device=spec.device, compiled=spec.compiled
    )
