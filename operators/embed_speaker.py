"""Embed speaker: what the speaker-verification attacker sees of an utterance."""

from models import registry, speaker
from operators.decode import Batch, object_array


class EmbedSpeaker:
    """Adds `embedding`: a unit vector [D] for each wave (float32 [samples] at 16 kHz)."""

    needs = ("wave",)
    adds = ("embedding",)

    def __init__(self, weights: str, device: str) -> None:
        self.encoder = speaker.load(registry.resolve(weights).path, device)

    def __call__(self, batch: Batch) -> Batch:
        return batch | {"embedding": object_array(list(self.encoder.embed(list(batch["wave"]))))}
