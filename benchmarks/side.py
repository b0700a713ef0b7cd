"""One side of a case in a process of its own: `python -m benchmarks.side MODULE CASE SIDE FILE`.

FILE gets a pickle: seconds, CPU seconds and growth of memory of one repetition, and its value.
"""

import importlib
import pickle
import resource
import sys
import time
from pathlib import Path

SELF = Path("/proc/self")


def memory(field: str) -> float:
    """VmHWM (peak) or VmRSS of this process, MB."""
    lines = (SELF / "status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(field)) / 1024


def cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure(side) -> dict:
    work = side()
    repeats = next(work)
    (SELF / "clear_refs").write_text("5")  # the peak begins here
    before, wall, spent = memory("VmRSS"), time.perf_counter(), cpu()
    try:
        next(work)
    except StopIteration as end:
        wall, spent = time.perf_counter() - wall, cpu() - spent
        return {"seconds": wall / repeats, "cpu": spent / repeats, "peak_mb": memory("VmHWM"),
                "growth_mb": memory("VmHWM") - before, "value": end.value}  # fmt: skip
    raise AssertionError("a side yields once")


if __name__ == "__main__":
    module, name, which, file = sys.argv[1:]
    cases = {c.name: c for c in importlib.import_module(f"benchmarks.{module}").CASES}
    with open(file, "wb") as f:
        pickle.dump(measure(getattr(cases[name], which)), f)
