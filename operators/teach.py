"""Teach: what a teacher hears in an utterance, frame by frame, at the frame rate of the codes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models import registry
from models.emotion import CLASSES
from operators.anonymize import Anonymize
from operators.decode import Batch, Unusable, find_beside, object_array

if TYPE_CHECKING:
    from models.streamvoiceanon.training.teachers import Frames, Teacher


@dataclass(frozen=True)
class TeacherKind:
    """A teacher by name: its weights unless others are named (None: they must be), and the labels that it knows
    (None: it learnt no labels, so none is foreign to it)."""

    weights: str | None
    emotions: tuple[str, ...] | None


TEACHERS = {
    "whisper": TeacherKind(registry.PROFILES["embedded"]["whisper"], None),
    "phones": TeacherKind(registry.PHONES, None),
    "wav2vec2": TeacherKind(registry.PROFILES["standard"]["emotion"], CLASSES),
    "emotion2vec": TeacherKind(None, (*CLASSES, "disgust", "disgusted", "fear", "fearful", "surprise", "surprised")),
}


def load_teacher(name: str, weights: str, device: str) -> "Teacher":
    """Load a teacher of `TEACHERS`. Raises WeightsMissing, ValueError or ImportError, one line each."""
    from models.streamvoiceanon.training.teachers import (
        Emotion2vecTeacher,
        PhoneTeacher,
        SpeechBrainTeacher,
        WhisperTeacher,
    )

    path = registry.resolve(weights).path
    if name == "whisper":
        return WhisperTeacher(path, device=device)
    if name == "phones":
        return PhoneTeacher(registry.resolve(registry.PROFILES["embedded"]["whisper"]).path, path, device=device)
    if name == "wav2vec2":
        return SpeechBrainTeacher(path, device)
    return Emotion2vecTeacher(path, device)


class Teach:
    """Adds `teacher` [frames x width] and `teacher_width`, for waves at `sample_rate` with `frames` at `frame_rate`.

    Where the folder `alignments` says when which phoneme was said, the teacher of phonemes is corrected by it; an
    utterance whose alignment is damaged gets a reason.
    """

    needs = ("utt_id", "wave", "frames", "reason", "detail")
    adds = ("teacher", "teacher_width")

    def __init__(
        self,
        teacher: str,
        weights: str,
        sample_rate: int,
        frame_rate: float,
        device: str,
        alignments: str | None = None,
    ) -> None:
        self.alignments = Path(alignments) if alignments else None
        self.teacher = load_teacher(teacher, weights, device)
        self.sample_rate, self.frame_rate = sample_rate, frame_rate

    def __call__(self, batch: Batch) -> Batch:
        from models.streamvoiceanon.training.teachers import to_frames

        rows = [index for index, reason in enumerate(batch["reason"]) if not reason]
        waves = [Anonymize.resample(batch["wave"][row], self.sample_rate, self.teacher.sample_rate) for row in rows]
        taught = [np.zeros(0, np.float32)] * len(batch["reason"])
        for row, heard in zip(rows, self.teacher.features(waves), strict=True):
            try:
                features = self.corrected(heard, batch["utt_id"][row])
            except Unusable as fault:
                batch["reason"][row], batch["detail"][row] = fault.reason, fault.detail
                continue
            frames = to_frames(features, self.teacher.rate, self.frame_rate, int(batch["frames"][row]))
            taught[row] = frames.flatten()
        width = np.full(len(taught), self.teacher.width)
        return batch | {"teacher": object_array(taught), "teacher_width": width}

    def corrected(self, heard: "Frames", utt_id: str) -> "Frames":
        """Return the teacher's frames with the phonemes of an alignment, where there is one; raises Unusable."""
        from models.phones import phones_at, read_alignment, trusting
        from models.streamvoiceanon.training.teachers import PhoneTeacher

        if self.alignments is None or not isinstance(self.teacher, PhoneTeacher):
            return heard
        path = find_beside(self.alignments, utt_id, ".csv")
        if path is None:
            return heard
        try:
            names, ends = read_alignment(path)
        except ValueError as fault:
            raise Unusable("damaged", str(fault)) from None
        phones = len(self.teacher.phones)
        said = phones_at(names, ends, len(heard), self.teacher.rate)
        return np.concatenate([trusting(heard[:, :phones], self.teacher.phones, said), heard[:, phones:]], axis=1)
