"""Reads SpeechBrain's hyperparameter files as plain data.

SpeechBrain's own loader (HyperPyYAML) builds whatever Python objects such a file names, so that a downloaded file can
run anything. Here its tags are ignored: what is left are the numbers that size a network.
"""

from pathlib import Path
from typing import Any

import yaml


def read(path: Path) -> dict[str, Any]:
    """Return the file's settings; `!ref <name>` becomes the value of `name`, every other tag is dropped.

    Raises ValueError for a file that is not a YAML mapping.
    """
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _TagsDropped)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not a SpeechBrain hyperparameter file: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is not a SpeechBrain hyperparameter file")

    def look_up(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: look_up(entry) for key, entry in value.items()}
        if isinstance(value, str) and value.startswith("<") and value.endswith(">"):
            return settings.get(value[1:-1], value)
        return value

    return {key: look_up(value) for key, value in settings.items()}


class _TagsDropped(yaml.SafeLoader):
    pass


def _plain(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type]


_TagsDropped.add_multi_constructor("!", _plain)
