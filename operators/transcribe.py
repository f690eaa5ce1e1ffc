"""Transcribe: Whisper encodes every utterance once; the frames give the words here and the emotion further on."""

from collections import defaultdict

import numpy as np

from models import registry
from models.whisper import Whisper, frame_statistics
from operators.decode import Batch, object_array
from operators.schema import base_language


class Transcribe:
    """Adds `transcript` (None where the model does not know the row's `language`) and `encoder_statistics` [2 D].

    `default_language` stands in where a row names none.
    """

    needs = ("wave", "language")
    adds = ("transcript", "encoder_statistics")

    def __init__(self, weights: str, default_language: str, device: str) -> None:
        self.whisper = Whisper(registry.resolve(weights).path, device=device)
        self.default_language = default_language

    def __call__(self, batch: Batch) -> Batch:
        encodings = self.whisper.encode(list(batch["wave"]))
        transcripts: list[str | None] = [None] * len(encodings)
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, language in enumerate(batch["language"]):
            rows_of[base_language(str(language or self.default_language))].append(row)
        for language, rows in rows_of.items():
            if language in self.whisper.languages:
                texts = self.whisper.transcribe([encodings[row] for row in rows], language)
                for row, text in zip(rows, texts, strict=True):
                    transcripts[row] = text
        return batch | {
            "transcript": np.array(transcripts, dtype=object),
            "encoder_statistics": object_array([frame_statistics(encoding) for encoding in encodings]),
        }
