"""DVC decides by content what is stale; Snakemake schedules it. This tells the one to the other.

`refresh` runs once, when Snakemake parses the workflow. It asks DVC for the stale stages and
answers in the only language Snakemake has, modification times: the marker of a stale stage gets
new content (a newer time alone is ignored when the checksum is unchanged), and a fresh stage whose
outputs are older than its inputs (after `dvc pull`, `dvc checkout`, `dvc repro`) gets its outputs'
time moved forward, of links into a cache that may be another user's their own. The content of a
tracked file is never touched.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from resegment.engines import leftovers
from resegment.errors import UserError

MARKERS = Path(".snakemake/stale")
# DVC parses params.yaml anew for every stage, which of 500 stages is most of its time.
QUESTION = """
import functools
import json
from dvc.dependency import param
from dvc.repo import Repo
param.load_path = functools.cache(param.load_path)
with Repo() as repo:
    print(json.dumps(sorted(repo.status())))
"""


def marker(stage: str) -> str:
    """The file whose content changes when DVC calls the stage stale."""
    return (MARKERS / stage).as_posix()


def stale() -> set[str]:
    """The stages whose dependencies, parameters, command or outputs are not those in dvc.lock.

    Any trouble stops the planning: silence must never be read as "nothing to do".
    """
    answer = subprocess.run([sys.executable, "-c", QUESTION], capture_output=True, text=True)
    if answer.returncode:
        if "is busy" in answer.stderr or "Unable to acquire lock" in answer.stderr:
            raise UserError("a dvc or snakemake is at work in this checkout: wait until it ends, "
                            "then type the same again")  # fmt: skip
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"DVC cannot say what is stale, so nothing is planned: {reason}")
    return set(json.loads(answer.stdout.splitlines()[-1]))


def refresh(stages: dict[str, dict[str, list[str]]]) -> set[str]:
    """Mark every stage of `plan.stages`, given in an order in which makers precede users."""
    leftovers.mend()
    leftovers.unlock_snakemake()
    unfresh, now = stale(), time.time_ns()
    for f in {f for stage in stages.values() for f in (*stage["inputs"], *stage["outputs"])}:
        if os.path.exists(f) and os.stat(f).st_mtime_ns > now:
            with contextlib.suppress(PermissionError):  # behind a link into another user's cache
                os.utime(f)  # from before the clock was set back: no marker would be newer
    for name, stage in stages.items():
        mark = Path(marker(name))
        mark.parent.mkdir(parents=True, exist_ok=True)
        if name in unfresh:
            mark.write_text(f"{time.time_ns()}\n")
            continue
        mark.touch()
        os.utime(mark, (1, 1))
        files = [*stage["inputs"], *stage["outputs"]]
        if all(map(os.path.exists, files)):
            looks = os.stat, os.lstat  # Snakemake goes by both times of an input that is a link
            newest = max((t(f).st_mtime_ns for f in stage["inputs"] for t in looks), default=0)
            for f in stage["outputs"]:
                if os.lstat(f).st_mtime_ns < newest:
                    os.utime(f, follow_symlinks=False)
    return unfresh
