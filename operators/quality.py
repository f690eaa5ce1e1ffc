"""Quality: how an utterance sounds (DNSMOS), how its pitch moves and how long it lasts."""

import numpy as np

from models import registry
from models.pitch import fundamental_frequency
from models.quality import SAMPLE_RATE, Dnsmos
from operators.decode import Batch, object_array


class MeasureQuality:
    """Adds `dnsmos` (overall, 1 to 5), `pitch` (hertz every 10 ms, NaN where unvoiced) and `seconds`."""

    needs = ("wave",)
    adds = ("dnsmos", "pitch", "seconds")

    def __init__(self, weights: str) -> None:
        self.dnsmos = Dnsmos(registry.resolve(weights).path)

    def __call__(self, batch: Batch) -> Batch:
        waves = list(batch["wave"])
        return batch | {
            "dnsmos": self.dnsmos.score(waves)["overall"].astype(np.float64),
            "pitch": object_array([fundamental_frequency(wave) for wave in waves]),
            "seconds": np.array([len(wave) / SAMPLE_RATE for wave in waves]),
        }
