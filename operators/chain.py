"""Chain: several operators in one actor.

The auditors' models are small: one process that holds them all costs less memory and less copying than a process
each, and two such actors keep two cores busy whatever the mix of work. An operator still knows nothing of its
neighbours.
"""

from collections.abc import Callable
from typing import Any

from operators.decode import Batch

Step = tuple[Callable[..., Callable[[Batch], Batch]], dict[str, Any]]


class Chain:
    """Builds each (operator class, keyword arguments) once an actor, and passes every batch through them in order."""

    def __init__(self, steps: list[Step]) -> None:
        self.operators = [operator(**arguments) for operator, arguments in steps]

    def __call__(self, batch: Batch) -> Batch:
        for operator in self.operators:
            batch = operator(batch)
        return batch
