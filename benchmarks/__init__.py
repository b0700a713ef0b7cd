"""What each step costs, beside what a user would write or pick instead, and beside its floor.

    python -m benchmarks [NAME...] [--rounds 3] [--write]

Every module here holds a list `CASES`. A side of a case is a generator function that prepares and
warms up, yields how many times it will do the work, does it, and returns what came out; it runs in
a process of its own, so that allocators, threads and memory are its own:

    def ours():
        x = prepare()
        work(x)         # warm-up
        yield 10        # the clock starts
        for _ in range(10):
            y = work(x)
        return y        # the clock stops
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Side = Callable[[], Iterator[int]]


@dataclass(frozen=True)
class Case:
    """One row of the table: a step, its rival, its floor, and the mark it must reach."""

    name: str
    step: str  # what is done, and how large
    ours: Side
    against: str = ""  # what a user would write or pick instead
    other: Side | None = None
    floor: Side | None = None
    floor_is: str = ""  # what bounds the step from below
    ratio: float | None = None  # the mark: at least so many times faster than `other`
    seconds: float | None = None  # or: at most so many seconds
    same: Callable[[Any, Any], str] | None = None  # (ours, other) -> how equal; asserts it
    rounds: int = 5
