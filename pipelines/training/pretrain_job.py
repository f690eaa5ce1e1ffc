"""The configuration of a training from random weights: one pydantic model for the three networks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, DirectoryPath, Field, model_validator

from operators.schema import InputError
from pipelines.config import Name, Output, load_fields
from pipelines.training.finetune_job import LONGEST_SECONDS, Source, find_config
from pipelines.training.settings import Delays, Settings

if TYPE_CHECKING:
    from models.streamvoiceanon import Config

Stage = Literal["content", "codec", "lm"]
NETWORKS: dict[Stage, str] = {"content": "content_encoder", "codec": "codec", "lm": "acoustic_lm"}


class PretrainJob(BaseModel):
    """What to train from random weights, and on what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: str = Field(description="Index (Parquet file, folder or URI) of speech by many people.")
    name: Name = Field(description="Name of the model: its folder and MLflow experiment.")
    output: Output = Field(
        Path("voxveil-out"), validate_default=True, description="Folder under which everything is written."
    )
    shape: str | dict[str, Any] = Field(
        "mini", description="Sizes of all networks: full, mini, small, small-signs, or a mapping of them."
    )
    start: Source | None = Field(None, description="Model folder whose weights to begin from; random ones without.")
    speaker_encoders: Source | None = Field(
        None, description="Checkpoint whose style and timbre encoders are used, where the shape has them."
    )
    crop_seconds: float = Field(1.5, gt=0, description="content, codec: length of what is heard at once.")
    perturbed: float = Field(
        0.0,
        ge=0,
        le=1,
        description="content, lm: share of speech that the content encoder hears in another voice and room.",
    )
    teacher: Literal["whisper", "phones"] = Field(
        "whisper", description="content: what codes have to tell: Whisper's features, or phonemes and prosody."
    )
    alignments: DirectoryPath | None = Field(
        None,
        description="content: folder of <utt_id>.csv, a phoneme and its end in seconds a line; where there is one, the "
        "teacher's phonemes are mostly those.",
    )
    whisper: str | None = Field(
        None, description="content: URI of the CTranslate2 Whisper to begin the trunk with; the embedded one without."
    )
    prosody_weight: float = Field(
        1.0, ge=0, description="content: how much prosody counts beside phonemes, where they are the teacher."
    )
    certainty_weight: float = Field(0.1, ge=0, description="content: how sure of its code each frame is to be.")
    diversity_weight: float = Field(0.2, ge=0, description="content: how evenly all codes are to be used.")
    feature_weight: float = Field(
        0.0, ge=0, description="content: how much features count that tell the same before they are quantized."
    )
    lag: int = Field(
        0, ge=0, le=4, description="content: a code tells what was said so many frames before, and has heard on since."
    )
    forgetting_weight: float = Field(
        0.0, ge=0, description="content: how hard codes are to tell the training's speakers apart; 0 does not ask."
    )
    spelling_weight: float = Field(
        0.0, ge=0, description="content: how much codes have to spell the index's column text; 0 does not ask."
    )
    adversarial_weight: float = Field(0.0, ge=0, description="codec: weight of the discriminators; 0 trains without.")
    frozen_codes: bool = Field(
        False,
        description="codec: the decoder alone learns, and codes stay those of `start`, as a language model knows them.",
    )
    listening_weight: float = Field(
        0.0,
        ge=0,
        description="codec, lm: how much it counts that what comes out is heard by the model's own content encoder as "
        "what it should be; 0 does not ask.",
    )
    decoder_learns: bool = Field(
        False,
        description="lm: the codec's decoder learns beside it to speak what it writes, from the recordings; needs a "
        "listening_weight. Codes stay what they were.",
    )
    encoder_learns: bool = Field(
        False,
        description="lm: what follows the content encoder's trunk learns beside it to tell it what is said, by the "
        "recordings in `heard`, where there are; the shape has to hear several codes at once.",
    )
    first_codebook_weight: float = Field(
        1.0, gt=0, description="lm: how much the first codebook counts beside the others, which may be the pitch."
    )
    blend: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the trained weights in those of the model folder; the rest are `start`'s.",
    )
    prompt_seconds: float = Field(4.0, gt=0, le=LONGEST_SECONDS, description="lm: prompts are cropped to this.")
    heard: DirectoryPath | None = Field(
        None,
        description="lm: folder of <utt_id>.flac, the same words at the same moments by somebody else; where there is "
        "one, every second draw of the content is heard there.",
    )
    draws: int = Field(
        1, ge=1, le=16, description="lm: how often each utterance's content is heard, each time perturbed otherwise."
    )
    content_weight: float = Field(
        1.0, ge=0, description="lm: how much the next content code counts, which generation does not use."
    )
    delays: Delays = Field(
        (0, 8), description="lm: smallest and largest delay that it learns to speak with, in frames, 8 at most."
    )
    begun: float = Field(
        0.0, ge=0, le=1, description="lm: share of sources that begin within their utterance, as after a refill."
    )
    corrupted: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="lm: share of past acoustic frames that are read as others, as its own mistakes are.",
    )
    min_seconds: float = Field(0.5, ge=0, description="Shorter utterances are left out.")
    max_seconds: float = Field(20.0, gt=0, le=LONGEST_SECONDS, description="Longer utterances are left out.")
    validation_share: float = Field(0.05, gt=0, lt=1, description="Share of speakers held out, one at least.")
    validation_items: int = Field(64, ge=1, description="Utterances that validation hears, at most.")
    training: Settings = Field(description="The loop.")
    workers: int | None = Field(None, ge=1, description="Actors of the Ray Data pass at most.")
    gpus: float = Field(0.0, ge=0, description="GPUs (or a fraction) for each actor of the Ray Data pass.")

    @model_validator(mode="after")
    def alignments_are_of_phonemes(self) -> Self:
        if self.alignments is not None and self.teacher != "phones":
            raise ValueError("alignments say phonemes: they need teacher: phones")
        return self

    @model_validator(mode="after")
    def frozen_codes_are_somebodys(self) -> Self:
        if self.frozen_codes and self.start is None:
            raise ValueError(
                "frozen_codes without start would freeze random codes: name the model whose codes they are"
            )
        return self

    @model_validator(mode="after")
    def blends_with_somebody(self) -> Self:
        if self.blend < 1.0 and self.start is None:
            raise ValueError(
                "blend without start would blend with random weights: name the model whose weights they are"
            )
        return self

    @model_validator(mode="after")
    def decoder_learns_by_ear(self) -> Self:
        if self.decoder_learns and not self.listening_weight:
            raise ValueError("decoder_learns: by what is heard, so it needs a listening_weight")
        if self.decoder_learns and self.start is None:
            raise ValueError(
                "decoder_learns without start: name the model whose codec it begins from, and another to write"
            )
        return self

    @model_validator(mode="after")
    def encoder_learns_of_somebody(self) -> Self:
        if self.encoder_learns and self.start is None:
            raise ValueError(
                "encoder_learns without start: name the model whose encoder it begins from, and another to write"
            )
        if self.encoder_learns and self.draws > 1:
            raise ValueError("encoder_learns: what is heard is drawn anew each time, so leave draws out")
        return self

    @property
    def codes_of_start(self) -> bool:
        """Whether networks that make codes change with the language model, whose codes then stay those of `start`."""
        return self.decoder_learns or self.encoder_learns

    @property
    def model(self) -> Path:
        """The model folder that the three stages fill."""
        return self.output / self.name / "model"

    def folder(self, stage: Stage) -> Path:
        """A stage's own private folder."""
        return self.output / self.name / "pretrain" / stage

    def sizes(self) -> "Config":
        """Return the sizes of all networks. Raises InputError."""
        from models.streamvoiceanon import CheckpointError
        from models.streamvoiceanon.config import config_from_values
        from models.streamvoiceanon.shapes import SHAPES

        if isinstance(self.shape, str):
            if self.shape not in SHAPES:
                raise InputError(f"no shape is called {self.shape!r}; there are {', '.join(SHAPES)}")
            return SHAPES[self.shape]
        try:
            return config_from_values(self.shape)
        except CheckpointError as fault:
            raise InputError(f"shape: {fault}") from None


def load_pretrain(stage: Stage, config: str, **options: object) -> PretrainJob:
    """Return the job of a YAML file, or of a built-in size by its bare name. Raises InputError, one line."""
    return load_fields(
        PretrainJob,
        find_config(config, f"pretrain-{stage}"),
        options,
        ("index", "start", "speaker_encoders", "alignments", "heard"),
    )
