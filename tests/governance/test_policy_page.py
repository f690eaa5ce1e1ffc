"""What `docs/policy.md` says is so."""

import re
from pathlib import Path

import pytest

from governance.catalogue import describe
from governance.policy import BUILT_IN, parse_policy

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")


def test_the_example_is_a_policy() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert parse_policy(example).name == "call-centre"


def test_every_built_in_policy_is_mentioned() -> None:
    assert all(f"`{path.stem}`" in PAGE for path in BUILT_IN.glob("*.yaml"))


@pytest.mark.parametrize("row", [line for line in PAGE.splitlines() if re.match(r"\| `(privacy|utility|data)\.", line)])
def test_every_name_in_the_table_is_known(row: str) -> None:
    names = re.findall(r"`([^`]+)`", row.split("|")[1])
    whole = [name if not name.startswith(".") else f"{names[0].rpartition('.')[0]}{name}" for name in names]
    fill = {"<scenario>": "ignorant", "<population>": "20", "<attribute>": "gender", "<emotion>": "sad"}
    for name in whole:
        for placeholder, value in fill.items():
            name = name.replace(placeholder, value)
        assert describe(name)
