"""The anonymizers by name, for the pipeline and for live streaming alike."""

from models.anonymizer import Anonymizer

ANONYMIZERS = ("mcadams", "identity")


def load_anonymizer(name: str, sample_rate: int) -> Anonymizer:
    """Return the anonymizer `name`; raises ValueError for a name that is none of ANONYMIZERS.

    `sample_rate` (hertz) is the job's; an anonymizer bound to one rate keeps its own, and the caller resamples.
    """
    if name == "mcadams":
        from models.mcadams import McAdams

        return McAdams(sample_rate)
    if name == "identity":
        from models.identity import Identity

        return Identity(sample_rate)
    raise ValueError(f"no anonymizer is called {name!r}; there are {', '.join(ANONYMIZERS)}")
