"""`benchmarks.rotation`: everybody is measured once, by nobody who trained on him in whatever disguise."""

import pytest

from benchmarks.rotation import rotate
from operators.schema import InputError

SPEAKERS = ["a", "ad1", "ad2", "b", "bd1", "c", "d"]
GROUPS = [("a",), ("b", "c"), ("d",)]


def test_each_group_is_measured_once_by_what_heard_it_in_no_disguise() -> None:
    folds = rotate(SPEAKERS, GROUPS)
    assert [fold.measured for fold in folds] == GROUPS
    assert [fold.choosing for fold in folds] == [("bd1", "c"), ("d",), ("ad1", "ad2")]
    assert [fold.trained for fold in folds] == [("d",), ("ad1", "ad2"), ("bd1", "c")]


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([("a",), ("b",)], "three or more"),
        ([("a",), ("b",), ("a",)], "named twice"),
        ([("a",), ("b",), ("e",)], "nobody is called e"),
    ],
)
def test_groups_that_cannot_rotate_are_told(groups: list[tuple[str, ...]], told: str) -> None:
    with pytest.raises(InputError, match=told):
        rotate(SPEAKERS, groups)
