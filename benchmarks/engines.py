"""What the two engines cost by themselves: 510 stages, looked through, and jobs that do nothing.

A checkout of its own under a temporary folder, whose `resegment` writes a stage's outputs and
nothing else. Finished stages are written down in dvc.lock by hand: DVC would need its time for
each.
"""

import atexit
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import yaml

from benchmarks import Case

ROOT = Path(__file__).parents[1]
SEEDS, FEW = 28, 2  # six experiments, three stages a run: 510 stages, and some 40
VERB = """#!{python} -S
import pathlib, sys
for out in {outs}[" ".join(sys.argv[1:])]:
    path = pathlib.Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(out)
"""


class Checkout:
    """A clone whose sample campaign has so many seeds."""

    def __init__(self, seeds: int):
        self.path = Path(tempfile.mkdtemp(prefix="engines-"))
        atexit.register(shutil.rmtree, self.path, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(self.path)], check=True)
        (self.path / "dvc.lock").unlink()
        text = (self.path / "params.yaml").read_text()
        text = text.replace("seeds: [0]", f"seeds: {list(range(seeds))}", 1)  # of campaign sample
        (self.path / "params.yaml").write_text(text)
        self.params = yaml.safe_load(text)
        self.run(sys.executable, "-c", "from resegment.cli import main; main()", "plan")
        ask = (
            "import json; from dvc.repo import Repo\n"
            "print(json.dumps([{'name': s.addressing, 'cmd': s.cmd,"
            " 'deps': sorted(d.def_path for d in s.deps if not getattr(d, 'params', None)),"
            " 'params': sorted(k for d in s.deps for k in getattr(d, 'params', None) or ()),"
            " 'outs': sorted(o.def_path for o in s.outs)} for s in Repo().index.stages]))"
        )
        self.stages = json.loads(self.run(sys.executable, "-c", ask).splitlines()[-1])
        outs = {s["cmd"].removeprefix("exec resegment "): [*map(_inside, s["outs"])]
                for s in self.stages}  # fmt: skip
        verb = self.path / ".bin/resegment"
        verb.parent.mkdir()
        verb.write_text(VERB.format(python=sys.executable, outs=outs))
        verb.chmod(0o755)

    def run(self, *words: str) -> str:
        env = os.environ | {
            "PYTHONPATH": str(self.path / "src"), "DVC_NO_ANALYTICS": "1",
            "PATH": f"{self.path / '.bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        answer = subprocess.run(words, cwd=self.path, env=env, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
        return answer.stdout + answer.stderr

    def finish(self) -> None:
        """Write every output, DVC's cache and dvc.lock as DVC would have left them."""

        def kept(content: bytes, suffix: str = "") -> str:
            digest = hashlib.md5(content).hexdigest() + suffix
            path = self.path / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            return digest

        @cache
        def entry(name: str) -> dict:
            path = self.path / name
            if not path.is_dir():
                return {"path": name, "hash": "md5", "md5": kept(path.read_bytes())}
            names = sorted(f for f in path.iterdir() if f.is_file())
            files = [{"md5": kept(f.read_bytes()), "relpath": f.name} for f in names]
            listing = json.dumps(files, sort_keys=True).encode()
            return {"path": name, "hash": "md5", "md5": kept(listing, ".dir")}

        for out in (o for s in self.stages for o in s["outs"]):
            path = self.path / _inside(out)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(out)
        lock = {}
        for s in self.stages:
            values = {key: _at(self.params, key) for key in s["params"]}
            lock[s["name"]] = {
                "cmd": s["cmd"], "deps": [entry(d) for d in s["deps"]],
                "params": {"params.yaml": values}, "outs": [entry(o) for o in s["outs"]],
            }  # fmt: skip
        tree = json.loads(json.dumps({"schema": "2.0", "stages": lock}))  # without anchors
        (self.path / "dvc.lock").write_text(yaml.safe_dump(tree, sort_keys=False))


def _inside(out: str) -> str:
    """A file for each output; a folder gets its manifest."""
    return out if Path(out).suffix else f"{out}/manifest.json"


def _at(tree: dict, key: str):
    for part in key.split("."):
        tree = tree[part]
    return tree


def looks(words: tuple[str, ...], finished: bool, says: str):
    """One look at 510 stages; `says` must be in the answer."""

    def side():
        checkout = Checkout(SEEDS)
        if finished:
            checkout.finish()
        checkout.run(*words)  # DVC remembers what it has hashed
        yield 1
        assert says in checkout.run(*words)

    return side


def works(*words: str):
    """Every job of a small pipeline, seconds a job; the verbs take 10 ms."""

    def side():
        checkout = Checkout(FEW)
        yield len(checkout.stages)
        checkout.run(*words)

    return side


def among_many():
    """One job that does nothing where 510 stages are recorded: DVC rewrites all of dvc.lock."""
    checkout = Checkout(SEEDS)
    checkout.finish()
    stage = "score@sample-smoke/unet-drive/s3"
    yield 1
    checkout.run("dvc", "--wait-for-lock", "repro", "-q", "--single-item", "--force", stage)


def starts():
    yield 1
    subprocess.run([sys.executable, "-c", "import dvc.repo.reproduce, dvc.cli.parser"], check=True)


STATUS, DRY = ("dvc", "status"), ("snakemake", "-n", "--quiet", "rules")
CASES = [
    Case("dvc-status", "dvc status, 510 stages, all to be made", looks(STATUS, False, "score@"),
         seconds=15, rounds=2),
    Case("dvc-status-done", "dvc status, 510 stages, all made", looks(STATUS, True, "up to date"),
         seconds=15, rounds=2),
    Case("snakemake-n", "snakemake -n, 510 stages, all to be made", looks(DRY, False, ""),
         seconds=15, rounds=2),
    Case("snakemake-n-done", "snakemake -n, 510 stages, all made",
         looks(DRY, True, "Nothing to be done"), seconds=15, rounds=2),
    Case("snakemake-job", f"snakemake: a job that does nothing, {6 * FEW} runs",
         works("snakemake", "--cores", "1", "--quiet", "all"), seconds=2, rounds=2,
         floor=starts, floor_is="Python importing DVC"),
    Case("dvc-job", f"dvc repro: a job that does nothing, {6 * FEW} runs",
         works("dvc", "repro", "-q"), seconds=2, rounds=2,
         floor=starts, floor_is="Python importing DVC"),
    Case("dvc-job-of-many", "dvc repro: one job that does nothing, 510 stages recorded", among_many,
         seconds=2, rounds=2, floor=starts, floor_is="Python importing DVC"),
]  # fmt: skip
