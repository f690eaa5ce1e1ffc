"""Give a content encoder its codebook, after `voxveil pretrain content --config small`.

    python -m pipelines.fit_codebook --training out/signs/pretrain/content --model out/signs/model --into small/model

`--training` is the stage's folder, whose prepared speech is read again, once as it is and once in another voice and
place. The model in `--into`, which is made where it is not there yet, gets the encoder; its other networks stay. The
speakers that the training held out are held out again, and say how often the phoneme told from codes is the teacher's.
"""

import argparse
import io
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from models.streamvoiceanon.content_encoder import ContentEncoder, NearestQuantizer
from models.streamvoiceanon.shapes import SMALL, SMALL_SIGNS
from models.streamvoiceanon.training.codebook import Taught, agreement, fit_quantizer
from models.streamvoiceanon.training.perturb import perturb
from models.streamvoiceanon.training.teachers import PROSODY
from pipelines.training.model_folder import fresh_base, read_base, source_of, write_model
from pipelines.training.pairs import split_speakers
from pipelines.training.rows import Rows
from pipelines.training.run_folder import DESCRIPTION


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--training", type=Path, required=True, help="folder of the content stage")
    parser.add_argument("--model", type=Path, required=True, help="its model, of the shape small-signs")
    parser.add_argument("--into", type=Path, required=True, help="model folder of the shape small, made or changed")
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    trained = read_base(str(options.model))
    if trained.config != SMALL_SIGNS:
        raise SystemExit(f"{options.model} is not of the shape small-signs")
    encoder = ContentEncoder(SMALL.content_encoder, SMALL.frames)
    state = {name: value for name, value in trained.states["content_encoder"].items() if ".residual_bsq." not in name}
    encoder.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    encoder.eval()
    quantizer = encoder.quantizer.residual_bsq.rvqs[0]
    assert isinstance(quantizer, NearestQuantizer)

    described = options.training / "training" / DESCRIPTION
    if not described.exists():
        raise SystemExit(f"{options.training} is not the folder of a content stage: it has no training/{DESCRIPTION}")
    asked = json.loads(described.read_text())["description"]
    lag = int(asked.get("lag", 0))
    rows = Rows(options.training / "prepared" / "parts")
    training, held_out = split_speakers(
        (row.speaker_id for row in rows.spoken.values()), asked["validation_share"], asked["training"]["seed"]
    )
    corpus = list(hear(encoder, rows, training, perturbed=True, lag=lag))
    phones = corpus[0].teacher.shape[1] - PROSODY
    teller = fit_quantizer(quantizer, corpus, phones, options.steps, seed=0)
    measured = list(hear(encoder, rows, held_out, perturbed=False, lag=lag))
    print(f"{len(corpus)} utterances, {sum(len(taught.features) for taught in corpus)} frames")
    for name, quantized in (("points", False), ("codes", True)):
        right, bits = agreement(quantizer, teller, measured, phones, quantized)
        print(f"held out, phoneme told from {name:6} as the teacher's {right:.3f}, codes {bits:.1f} bits a frame")
    put_encoder(encoder, options.into, trained.sources.get("content_encoder", "none"))
    print(f"wrote {options.into}")


@torch.no_grad()
def hear(encoder: ContentEncoder, rows: Rows, speakers: Iterable[str], perturbed: bool, lag: int) -> Iterable[Taught]:
    """Yield features and the teacher's frames of `lag` frames before, of these speakers' utterances.

    `perturbed`: in another voice and place as well.
    """
    known, frame = set(speakers), SMALL.frames.samples
    for number, name in enumerate(sorted(name for name, row in rows.spoken.items() if row.speaker_id in known)):
        row = rows.read(name, ("audio", "teacher"))
        wave, rate = soundfile.read(io.BytesIO(row["audio"].item()["bytes"]), dtype="float32")
        teacher = torch.from_numpy(row["teacher"].reshape(rows.spoken[name].frames, -1).astype(np.float32))
        heard = [wave]
        if perturbed:
            heard.append(perturb(wave, rate, np.random.default_rng([number, 4])))
        for own in heard:
            samples = torch.nn.functional.pad(torch.from_numpy(own), (0, -len(own) % frame)).unsqueeze(0)
            features, _ = encoder.features(samples, encoder.initial_state(1, samples.shape[1] // frame))
            yield Taught(features[0, lag:].half(), teacher[: len(teacher) - lag].half())


def put_encoder(encoder: ContentEncoder, folder: Path, training: str) -> None:
    """Put the encoder into a model folder of the shape small; a folder that is not there gets random other networks."""
    base = read_base(str(folder)) if folder.exists() else fresh_base(SMALL, 0, None)
    if base.config != SMALL:
        raise SystemExit(f"{folder} is not of the shape small")
    state = encoder.state_dict()
    partial = folder.with_name(f".{folder.name}-codebook")
    sources = base.sources | {"content_encoder": source_of(state, training)}
    write_model(partial, replace(base, folder=folder), {"content_encoder": state}, sources)
    former = partial.with_name(f"{partial.name}-former")
    if folder.exists():
        folder.replace(former)
    partial.replace(folder)
    shutil.rmtree(former, ignore_errors=True)


if __name__ == "__main__":
    main()
