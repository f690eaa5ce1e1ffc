"""Recognize emotion: how an utterance sounds to a recogniser of neutral, happy, sad and angry speech."""

import numpy as np

from models import registry
from models.emotion import EmotionHead, SpeechBrainEmotion
from operators.decode import Batch, object_array


class RecognizeEmotion:
    """Adds `emotion_probabilities` [4].

    A file is a linear head on Whisper's frame statistics; for a speaker of its own training corpus it uses the head
    that never heard that speaker. A folder is SpeechBrain's wav2vec2 recogniser, which listens to the wave.
    """

    needs = ("speaker_id", "wave", "encoder_statistics")
    adds = ("emotion_probabilities",)

    def __init__(self, weights: str, device: str) -> None:
        path = registry.resolve(weights).path
        self.head = EmotionHead.load(path) if path.is_file() else None
        self.listener = SpeechBrainEmotion(path, device) if self.head is None else None

    def __call__(self, batch: Batch) -> Batch:
        if self.head is not None:
            rows = [
                self.head.for_speaker(str(speaker)).predict(np.asarray(statistics)[None])[0]
                for speaker, statistics in zip(batch["speaker_id"], batch["encoder_statistics"], strict=True)
            ]
        else:
            assert self.listener is not None
            rows = list(self.listener.predict(list(batch["wave"])))
        return batch | {"emotion_probabilities": object_array(rows)}
