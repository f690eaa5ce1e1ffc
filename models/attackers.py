"""The trained half of the semi-informed attacker: a back-end that learns what an anonymizer leaves of a voice.

A speaker encoder that never heard anonymized speech looks for cues that the anonymizer has moved, and is misled by
those that it varies. The back-end is trained on embeddings of anonymized speech with known speakers: linear
discriminant analysis finds the directions in which one person's utterances scatter and shrinks them, so that what stays
the same for a person counts. It knows nothing of trials, scores or how the speech was anonymized.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

FORMAT = "voxveil speaker back-end 2"
# How far a speaker's covariance is pulled towards a round one. `python -m benchmarks.attackers` chose it, on synthetic
# voices and on LibriSpeech train-clean-100, on which no result is reported.
SHRINKAGE = 0.05


@dataclass(frozen=True, eq=False)
class SpeakerBackend:
    """An affine map after which the cosine of two embeddings says how alike the voices are.

    `mean` is [D], `projection` [D, D] in float32. `metadata` says what it was trained on; `speakers` and `utterances`
    count that.
    """

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]
    speakers: int
    utterances: int
    metadata: dict[str, str] = field(default_factory=dict)

    def project(self, embeddings: ArrayLike) -> NDArray[np.float32]:
        """Map embeddings [N, D] to where voices separate, [N, D]. Raises ValueError for another D."""
        rows = np.asarray(embeddings, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.mean.size:
            raise ValueError(f"this back-end takes embeddings [N, {self.mean.size}], not {rows.shape}")
        return np.asarray((rows - self.mean) @ self.projection, np.float32)

    def save(self, path: Path) -> None:
        """Write the back-end as safetensors. Equal back-ends give equal bytes."""
        from safetensors.numpy import save_file

        counts = {"format": FORMAT, "speakers": self.speakers, "utterances": self.utterances}
        # safetensors writes several entries of metadata in any order, so here is one.
        metadata = {"back_end": json.dumps({**counts, "metadata": self.metadata}, sort_keys=True)}
        save_file({"mean": self.mean, "projection": self.projection}, path, metadata)

    @classmethod
    def load(cls, path: Path) -> "SpeakerBackend":
        """Read what `save` wrote. Raises ValueError for any other file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                described = json.loads((file.metadata() or {}).get("back_end", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
        if described.get("format") != FORMAT or tensors.keys() != {"mean", "projection"}:
            raise ValueError(f"{path} is not a speaker back-end of this version ({FORMAT})")
        mean, projection = tensors["mean"], tensors["projection"]
        if mean.ndim != 1 or projection.shape != (mean.size, mean.size):
            raise ValueError(f"{path} is not a speaker back-end: its tensors do not fit each other")
        if not (np.isfinite(mean).all() and np.isfinite(projection).all()):
            raise ValueError(f"{path} is not a speaker back-end: it holds numbers that are not finite")
        return cls(mean, projection, described["speakers"], described["utterances"], described["metadata"])


def train_backend(embeddings: ArrayLike, speakers: ArrayLike, metadata: dict[str, str] | None = None) -> SpeakerBackend:
    """Train a back-end on embeddings [N, D] of anonymized speech by `speakers` [N].

    Scikit-learn's linear discriminant analysis with shrinkage, none of its directions dropped: with fewer speakers than
    dimensions those beyond (speakers - 1) hold no training speaker apart, but new people do differ in them. Speakers
    with a single utterance show no scatter and are left out. Raises ValueError where fewer than two speakers are left,
    or where nobody's utterances differ.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    rows, names = np.asarray(embeddings, dtype=np.float64), np.asarray(speakers)
    if rows.ndim != 2 or len(rows) != names.size:
        raise ValueError(f"embeddings are {rows.shape}, but {names.size} speakers are named")
    if not np.isfinite(rows).all():
        raise ValueError("the training embeddings hold numbers that are not finite")
    _, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    kept = counts[codes] > 1
    rows, codes = rows[kept], codes[kept]
    people = int(np.count_nonzero(counts > 1))
    if people < 2:
        raise ValueError(f"training needs two or more speakers with two utterances each, and there are {people}")
    analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage=SHRINKAGE)
    try:
        analysis.fit(rows, codes)
    except np.linalg.LinAlgError:
        raise ValueError("no speaker's utterances differ from each other, so there is nothing to learn") from None
    projection = np.ascontiguousarray(analysis.scalings_, np.float32)  # safetensors takes no other layout
    return SpeakerBackend(rows.mean(axis=0).astype(np.float32), projection, people, len(rows), metadata or {})
