"""The configuration of a fine-tuning: one pydantic model, read from YAML, with few fields as options too."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from operators.schema import InputError
from pipelines.config import Name, Output, load_fields
from pipelines.training.settings import Delays, Settings

CONFIGS = Path(__file__).parent / "configs"
LONGEST_SECONDS = 23.7  # 512 frames, which a voice's prompt may have


def absolute_folder(source: str) -> str:
    """Return a checkpoint's source, a local folder whatever the working directory of a worker is."""
    return str(Path(source).absolute()) if Path(source).is_dir() else source


Source = Annotated[str, AfterValidator(absolute_folder)]


class FinetuneJob(BaseModel):
    """What to fine-tune on what, and how it is judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: str = Field(description="Index (Parquet file, folder or URI) with the columns speaker_id and emotion.")
    name: Name = Field(description="Name of the result: its folder, MLflow experiment and registered model.")
    model: Source = Field(description="The base: checkpoint folder, or Plachta/StreamVoiceAnon.")
    output: Output = Field(
        Path("voxveil-out"), validate_default=True, description="Folder under which everything is written."
    )
    pairing: Literal["emotional", "speaker"] = Field(
        "emotional", description="Prompts: neutral speech for an emotional source, or any other of the speaker's."
    )
    teacher: Literal["whisper", "wav2vec2", "emotion2vec", "none"] = Field(
        "whisper", description="Whose frame features the language model learns to hold; none: no distillation."
    )
    teacher_weights: str | None = Field(None, description="Weights of the teacher (file:, hf://); default: the usual.")
    distillation: Literal["cosine", "mse"] = Field("cosine", description="Distance to the teacher's frames.")
    distillation_weight: float = Field(1.0, ge=0, description="Weight of that distance in the loss.")
    content_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of predicting content codes; a base whose content head was never trained wants 0.",
    )
    delays: Delays = Field((0, 8), description="Smallest and largest delay that it speaks with, in frames, 8 at most.")
    corrupted: float = Field(
        0.0, ge=0, lt=1, description="Share of past acoustic frames that are read as others, as its own mistakes are."
    )
    listening_weight: float = Field(
        0.0,
        ge=0,
        description="How much it counts that what it writes is heard by the base's own content encoder as what it "
        "should be; 0 does not ask.",
    )
    prompt_seconds: float = Field(8.0, gt=0, le=LONGEST_SECONDS, description="Prompts are cropped to this.")
    min_seconds: float = Field(0.5, ge=0, description="Shorter utterances are left out.")
    max_seconds: float = Field(20.0, gt=0, le=LONGEST_SECONDS, description="Longer utterances are left out.")
    validation_share: float = Field(0.1, gt=0, lt=1, description="Share of speakers held out, one at least.")
    validation_speakers: tuple[str, ...] = Field(
        (), description="Speakers to hold out, by their ids; default: validation_share of them, drawn."
    )
    validation_pairs: int = Field(64, ge=1, description="Pairs of held-out speakers that validation reads, at most.")
    samples: int = Field(2, ge=0, description="Held-out sources that are spoken before and after, for people to hear.")
    training: Settings = Field(description="The loop.")
    evaluation_index: str | None = Field(None, description="Index to audit; default: the held-out speakers.")
    voices: str | None = Field(None, description="Voice bank of the audits; default: neutral training speech.")
    attacker_corpus: str | None = Field(
        None,
        description="Index of other people's speech to train the audits' attacker on; default: the audited speech.",
    )
    language: str | None = Field(
        None, description="Language code of audited rows whose column `language` says nothing; default: en."
    )
    policy: str = Field("default", description="Policy whose privacy rules the result must meet.")
    profile: Literal["embedded", "standard"] = Field("embedded", description="Auditors.")
    alias: str = Field("approved", description="MLflow alias that the model gets when it passes.")
    workers: int | None = Field(None, ge=1, description="Actors of the Ray Data passes at most.")
    gpus: float = Field(0.0, ge=0, description="GPUs (or a fraction) for each actor of the Ray Data passes.")

    @model_validator(mode="after")
    def teacher_has_weights(self) -> Self:
        if self.teacher == "emotion2vec" and self.teacher_weights is None:
            raise ValueError("the teacher emotion2vec needs teacher_weights, such as file:/models/emotion2vec_base")
        return self

    @property
    def device(self) -> str:
        """Where the Ray Data passes compute."""
        return "cuda" if self.gpus else "cpu"

    @property
    def folder(self) -> Path:
        """The fine-tuning's own private folder."""
        return self.output / self.name / "finetune"


def load_finetune(config: str, **options: object) -> FinetuneJob:
    """Return the job of a YAML file, or of a built-in size by its bare name. Raises InputError, one line."""
    paths = ("index", "model", "voices", "policy", "evaluation_index", "attacker_corpus")
    return load_fields(FinetuneJob, find_config(config, "finetune"), options, paths)


def find_config(config: str, kind: str) -> Path:
    """Return the file that `config` names: a path, or the built-in configuration of a size. Raises InputError."""
    if Path(config).suffix:
        return Path(config)
    if config not in sizes(kind):
        raise InputError(f"no configuration is called {config!r}: name a YAML file, or one of {', '.join(sizes(kind))}")
    return CONFIGS / f"{kind}-{config}.yaml"


def sizes(kind: str) -> tuple[str, ...]:
    """Return the sizes that a kind of training has a built-in configuration for."""
    return tuple(sorted(path.stem.removeprefix(f"{kind}-") for path in CONFIGS.glob(f"{kind}-*.yaml")))
