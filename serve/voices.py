"""The voices that a client may ask for by name: those of the voice bank, or names for seeds where there is none."""

import hashlib
from collections.abc import Mapping
from typing import Any

LONGEST_NAME = 64  # characters that the protocol takes


class NamedVoices:
    """What each name stands for. `names` are sorted; a bank's voices whose ids no client could send are left out."""

    def __init__(self, anonymizer: Any, seeds: Mapping[str, int]) -> None:
        self.anonymizer = anonymizer
        self.seeds = dict(seeds)
        bank = getattr(anonymizer, "voices", None)
        self.bank = None if bank is None else {voice.voice_id: voice for voice in bank.voices}
        known = self.seeds if self.bank is None else self.bank
        self.names = sorted(name for name in known if 0 < len(name) <= LONGEST_NAME)

    def voice(self, name: str) -> tuple[Any, int]:
        """Return the voice called so, always the same, and a seed for its sampling; raises KeyError."""
        if self.bank is None:
            return self.anonymizer.draw_voice(self.seeds[name]), self.seeds[name]
        import torch

        from models.streamvoiceanon.voices import mix_with_noise

        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        alpha = self.anonymizer.alpha
        return mix_with_noise(self.bank[name], alpha, torch.Generator().manual_seed(seed)), seed
