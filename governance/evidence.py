"""What the auditors found: the figures, and the arrays that the plots of the report are drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from governance.catalogue import SCENARIOS, describe
from metrics.estimate import Estimate


@dataclass(frozen=True)
class Evidence:
    """The result of an audit.

    `metrics` carries the dotted names of `catalogue`; a subgroup's figure is `subgroup.<column>.<value>.<name>`.
    `scores` holds, for each scenario, the attacker's similarity scores of mated (one speaker) and of non-mated pairs.
    `confusions` has a count matrix [true, recognised] for `original` and `anonymized`, its order in `emotion_classes`.
    `notes` are limits that a reader has to know, as whole sentences. `chance` is what guessing yields, by metric name,
    where that does not follow from the name (inference of an attribute).

    Raises ValueError for a metric or a scenario that has no name in the catalogue, and for arrays that do not fit.
    """

    metrics: Mapping[str, Estimate]
    scores: Mapping[str, tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]] = field(default_factory=dict)
    confusions: Mapping[str, npt.NDArray[np.integer]] = field(default_factory=dict)
    emotion_classes: Sequence[str] = ()
    notes: Sequence[str] = ()
    chance: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.metrics:
            try:
                describe(name)
            except KeyError as error:
                raise ValueError(error.args[0]) from None
        for scenario in self.scores:
            if scenario not in SCENARIOS:
                raise ValueError(f"no scenario is called “{scenario}”; there are {', '.join(SCENARIOS)}")
        side = len(self.emotion_classes)
        for name, matrix in self.confusions.items():
            if np.shape(matrix) != (side, side):
                raise ValueError(
                    f"the confusion matrix “{name}” is not {side} by {side}, the number of emotion classes"
                )
