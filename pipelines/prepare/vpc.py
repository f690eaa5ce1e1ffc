"""The VoicePrivacy challenges' data folders (2020 to 2026), which are Kaldi's: tables of text, one line an utterance.

    <subset>/wav.scp  utt2spk  spk2utt  spk2gender  text  utt2emo    utterances; all but the first two may be missing
    <subset>_enrolls/enrolls                                         ids of the enrolment utterances
    <subset>_trials_f/trials                                         `speaker utterance target` or `… nontarget`

The official enrolment and trials become the column `role` of the index and a Parquet table beside it, whose rows are
`enrolment_speaker`, `utt_id`, `mated` and `subset`. In Kaldi a path in `wav.scp` may be a command ending in a pipe;
this module runs nothing and refuses it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from operators.schema import InputError
from pipelines.prepare.index import (
    PreparedIndex,
    Utterance,
    canonical_emotion,
    canonical_gender,
    locate_audio,
    require_folder,
    write_index,
)

LABELS = ("text", "gender", "emotion", "role", "subset")
TRIAL_SCHEMA = pa.schema(
    [("enrolment_speaker", pa.string()), ("utt_id", pa.string()), ("mated", pa.bool_()), ("subset", pa.string())]
)
MATED = {"target": True, "nontarget": False}


@dataclass
class Official:
    """What the folders say together: who spoke an utterance, which of them are enrolled, and the trials."""

    utterances: dict[str, Utterance] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    role_origins: dict[str, str] = field(default_factory=dict)
    trials: list[dict[str, str | bool]] = field(default_factory=list)
    trial_origins: list[str] = field(default_factory=list)


def trials_path(output: Path) -> Path:
    """Return where the official trials of the index `output` lie."""
    return output.with_suffix(".trials.parquet")


def prepare_vpc(source: Path, output: Path, embed: bool, audio: Path | None = None) -> PreparedIndex:
    """Index every folder with a `wav.scp` at or below `source`, and write its official trials where it has any.

    Relative paths in `wav.scp` start at `audio` (default: `source`), and no path may leave it. Raises InputError as
    `write_index` does, for a command in place of a path, for tables that contradict each other, and for trials that
    name an unknown utterance or speaker or are all of one kind.
    """
    folder = require_folder(source)
    root = require_folder(audio) if audio is not None else folder
    subsets = sorted(table.parent for table in folder.rglob("wav.scp"))
    if not subsets:
        raise InputError(f"{source}: no folder with a wav.scp in it; name the folder that holds the data folders")
    official = Official()
    for subset in subsets:
        _read_subset(subset, folder, root, official)
    _check_trials(official)
    rows = (_with_role(utterance, official.roles) for utterance in official.utterances.values())
    count, speakers, embedded = write_index(rows, root, output, LABELS, embed)
    if official.trials:
        pq.write_table(pa.Table.from_pylist(official.trials, TRIAL_SCHEMA), trials_path(output), compression="zstd")
    return PreparedIndex(output, count, speakers, embedded, ())


def _read_subset(subset: Path, folder: Path, root: Path, official: Official) -> None:
    """Add the utterances, the roles and the trials of one data folder."""
    if (subset / "segments").exists():
        raise InputError(
            f"{subset}: the recordings are cut by a table `segments`; cut the audio and point wav.scp at it"
        )
    name = str(subset.relative_to(folder)) if subset != folder else folder.name
    paths, speakers = _read_table(subset / "wav.scp"), _read_table(subset / "utt2spk")
    texts, genders, emotions = (_read_table(subset / table, True) for table in ("text", "spk2gender", "utt2emo"))
    _check_speakers(subset, speakers)
    for utt_id, (line, path) in paths.items():
        origin = f"{subset.relative_to(folder) / 'wav.scp'}, line {line}"
        if utt_id not in speakers:
            raise InputError(f"{origin}: utterance {utt_id} has no speaker in utt2spk; add it or remove the line")
        if "|" in path:
            raise InputError(f"{origin}: {path!r} is a command, and none is run; decode the audio and name the file")
        speaker = speakers[utt_id][1]
        labels = {
            "text": texts[utt_id][1] if utt_id in texts else None,
            "gender": canonical_gender(genders[speaker][1]) if speaker in genders else None,
            "emotion": canonical_emotion(emotions[utt_id][1]) if utt_id in emotions else None,
            "subset": name,
        }
        utterance = Utterance(utt_id, speaker, locate_audio(root, path, origin), labels, origin)
        former = official.utterances.setdefault(utt_id, utterance)
        if (former.speaker_id, former.audio) != (speaker, utterance.audio):
            raise InputError(f"{origin}: utterance {utt_id} is another one in {former.origin}; give each its own id")
    for utt_id, (line, _) in _read_table(subset / "enrolls", True).items():
        _take_role(official, utt_id, "enrolment", f"{name}/enrolls, line {line}")
    _read_trials(subset / "trials", name, official)


def _read_trials(table: Path, subset: str, official: Official) -> None:
    """Add the official trials of a subset."""
    for number, fields in _read_lines(table, True):
        origin = f"{subset}/trials, line {number}"
        if len(fields) != 3 or fields[2] not in MATED:
            raise InputError(f"{origin}: not `speaker utterance target` or `… nontarget`; correct it")
        speaker, utt_id, kind = fields
        _take_role(official, utt_id, "trial", origin)
        official.trials.append({"enrolment_speaker": speaker, "utt_id": utt_id, "mated": MATED[kind], "subset": subset})
        official.trial_origins.append(origin)


def _check_trials(official: Official) -> None:
    """Hold the trials against the utterances, once all folders were read."""
    unknown = [utt_id for utt_id in official.roles if utt_id not in official.utterances]
    if unknown:
        raise InputError(
            f"{official.role_origins[unknown[0]]}: no wav.scp names the utterance {unknown[0]} ({len(unknown)} such); "
            "add it there, or remove the line"
        )
    if not official.trials:
        return
    enrolled = {official.utterances[u].speaker_id for u, role in official.roles.items() if role == "enrolment"}
    for trial, origin in zip(official.trials, official.trial_origins, strict=True):
        speaker = trial["enrolment_speaker"]
        if speaker not in enrolled:
            raise InputError(f"{origin}: speaker {speaker} is not enrolled by any utterance in a table `enrolls`")
        if trial["mated"] != (official.utterances[str(trial["utt_id"])].speaker_id == speaker):
            raise InputError(f"{origin}: target or nontarget contradicts the speaker of the utterance in utt2spk")
    kinds = {trial["mated"] for trial in official.trials}
    if len(kinds) == 1:
        raise InputError(f"all {len(official.trials)} trials are {'target' if kinds == {True} else 'nontarget'} ones")


def _check_speakers(subset: Path, speakers: dict[str, tuple[int, str]]) -> None:
    """Raise InputError where spk2utt, if there is one, says otherwise than utt2spk."""
    for speaker, (line, utt_ids) in _read_table(subset / "spk2utt", True).items():
        for utt_id in utt_ids.split():
            if speakers.get(utt_id, (0, ""))[1] != speaker:
                raise InputError(
                    f"{subset / 'spk2utt'}, line {line}: utt2spk gives {utt_id} to somebody else than {speaker}"
                )


def _take_role(official: Official, utt_id: str, role: str, origin: str) -> None:
    official.role_origins.setdefault(utt_id, origin)
    if official.roles.setdefault(utt_id, role) != role:
        raise InputError(f"{origin}: utterance {utt_id} is both enrolled and tried; the attacker would know the answer")


def _with_role(utterance: Utterance, roles: dict[str, str]) -> Utterance:
    labels = {**utterance.labels, "role": roles.get(utterance.utt_id)}
    return Utterance(utterance.utt_id, utterance.speaker_id, utterance.audio, labels, utterance.origin)


def _read_table(path: Path, optional: bool = False) -> dict[str, tuple[int, str]]:
    """First field of each line to the line's number and the rest. Raises InputError for a key that is repeated."""
    table: dict[str, tuple[int, str]] = {}
    for number, fields in _read_lines(path, optional, 1):
        key, value = fields[0], fields[1].strip() if len(fields) > 1 else ""
        if key in table:
            raise InputError(f"{path}, line {number}: {key} stands there twice; remove one of the lines")
        table[key] = (number, value)
    return table


def _read_lines(path: Path, optional: bool = False, splits: int = -1) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line that is not empty; of an `optional` table that is missing, none."""
    if optional and not path.exists():
        return
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                fields = line.split(maxsplit=splits)
                if fields:
                    yield number, fields
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text; restore the table") from error
