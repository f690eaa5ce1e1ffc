"""`benchmarks.rotation`: everybody is measured once, by nobody who trained on him in whatever disguise."""

import math

import pytest

from benchmarks.rotation import means, rotate
from operators.schema import InputError

SPEAKERS = ["a", "ad1", "ad2", "b", "bd1", "c", "d"]
GROUPS = [("a",), ("b", "c"), ("d",)]


def test_each_group_is_measured_once_by_what_heard_it_in_no_disguise() -> None:
    folds = rotate(SPEAKERS, GROUPS)
    assert [fold.measured for fold in folds] == GROUPS
    assert [fold.choosing for fold in folds] == [("bd1", "c"), ("d",), ("ad1", "ad2")]
    assert [fold.trained for fold in folds] == [("d",), ("ad1", "ad2"), ("bd1", "c")]


def test_nobody_is_taken_for_another_whose_id_begins_alike() -> None:
    speakers = ["s1", "s1d1", "s10", "s10d1", "s2", "s2d1", "s2day"]
    for fold in rotate(speakers, [("s1",), ("s2",), ("s10",)]):
        people = [{name.split("d")[0] for name in part} for part in (fold.trained, fold.choosing, fold.measured)]
        assert [len(part) for part in people] == [1, 1, 1]
        assert set.union(*people) == {"s1", "s2", "s10"}
        assert "s2day" not in (*fold.trained, *fold.choosing)


def test_a_mean_is_of_the_groups_that_were_measured() -> None:
    nothing = math.nan
    first, second, third = means([[1.0, nothing, nothing], [2.0, 0.5, nothing], [3.0, 0.7, nothing]])
    assert first.startswith("2.000 (")
    assert second.startswith("0.600 (")
    assert third == ""


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([("a",), ("b",)], "three or more"),
        ([("a",), ("b",), ("a",)], "named twice"),
        ([("a",), ("b",), ("e",)], "nobody is called e"),
        ([("a",), ("b",), ("ad1",)], "ad1: a disguise"),
    ],
)
def test_groups_that_cannot_rotate_are_told(groups: list[tuple[str, ...]], told: str) -> None:
    with pytest.raises(InputError, match=told):
        rotate(SPEAKERS, groups)
