"""A finished pipeline of seconds, which the tests of the engines copy and change.

A `resegment` on its PATH writes down every verb that really ran, and when.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from resegment.files import fingerprint

UNET, RGA = "sample-tiny/unet-drive/s0", "sample-tiny/rga-drive/s0"
TAIL = ["ledger sample-tiny", "figures sample-tiny", "report sample-tiny"]
EVERY = {"ingest", "prepare", "train", "predict", "score", "ledger", "figures", "report"}
VERB = """#!{python}
import os, subprocess, sys, time
line = " ".join(sys.argv[1:])
note = lambda what: open(os.environ["RAN"], "a").write(f"{{what}}|{{line}}|{{time.time()}}\\n")
note("start")
code = subprocess.call([{python!r}, "-c", "from resegment.cli import main; main()", *sys.argv[1:]])
note("end")
sys.exit(code)
"""


def verbs(run):
    """What runs when a run's training changes."""
    return [f"train {run}", f"predict {run}", f"score {run}", *TAIL]


class Work:
    """A checkout with its own sources, cache and engines."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def env(self) -> dict:
        keep = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        python = str(Path(sys.executable).parent)
        return keep | {
            "PYTHONPATH": str(self.path / "src"), "RAN": str(self.path / ".ran"),
            "PATH": f"{self.path / '.bin'}:{python}:{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200",
        }  # fmt: skip

    def sh(self, command: str, ok: bool = True) -> subprocess.CompletedProcess:
        r = subprocess.run(
            command, shell=True, cwd=self.path, capture_output=True, text=True, env=self.env
        )
        assert not ok or r.returncode == 0, r.stdout[-3000:] + r.stderr[-3000:]
        return r

    def start(self, command: str) -> subprocess.Popen:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(
            command.split(), cwd=self.path, env=self.env, start_new_session=True, **quiet
        )

    def snakemake(self, ok: bool = True, extra: str = "--resources gpu=2"):
        return self.sh(f"snakemake --cores 2 {extra}", ok)

    def log(self) -> list[list[str]]:
        file = self.path / ".ran"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.split("|") for line in lines]

    def ran(self) -> list[str]:
        """The verbs since the last time that was asked."""
        out = [line for what, line, _ in self.log() if what == "start"]
        (self.path / ".ran").unlink(missing_ok=True)
        return out

    def costly(self) -> list[str]:
        """What ran, without the gathering stages, whose uncached outputs DVC makes again."""
        return [line for line in self.ran() if line.split()[0] not in ("ledger", "figures")]

    def stale(self) -> set[str]:
        return set(json.loads(self.sh("dvc status --json").stdout or "{}"))

    def plan(self) -> set[str]:
        """The rules that `snakemake -n` would run."""
        r = self.sh("snakemake -n --cores 2")
        if "Nothing to be done" in r.stdout + r.stderr:
            return set()
        rules = re.findall(r"^(?:local)?rule (\w+):", r.stdout + r.stderr, re.M)
        return set(rules) - {"all", "default"}

    def change(self, edit) -> None:
        file = self.path / "params.yaml"
        tree = yaml.safe_load(file.read_text())
        edit(tree)
        file.write_text(yaml.safe_dump(tree, sort_keys=False))

    def rate(self, experiment: str, lr: float) -> None:
        def edit(tree):
            tree["experiments"][experiment]["train"]["optimiser"] = {"name": "adam", "lr": lr}

        self.change(edit)

    def lengthen(self, epochs: int, samples: int = 64) -> None:
        """The U-Net alone trains longer: so long that something can happen meanwhile."""
        more = {"epochs": epochs, "samples_per_epoch": samples}
        self.change(lambda t: t["budgets"]["tiny"]["models"]["unet"]["train"].update(more))

    def lock(self) -> dict:
        return yaml.safe_load((self.path / "dvc.lock").read_text())["stages"]

    def clean(self) -> None:
        assert self.stale() == set() and self.plan() == set()


def tiny(tree: dict) -> None:
    """The smallest campaign: two runs of a second each."""
    tree["active"] = ["sample"]
    tree["budgets"]["tiny"] = {
        "recipes": {"rga-512": "native"},
        "train": {"epochs": 2, "samples_per_epoch": 8, "batch_size": 4,
                  "augment": {"crop": 32, "flips": True}},
        "models": {"unet": {"train": {"workers": 0}}, "rga_net": {"train": {"batch_size": 2}}},
    }  # fmt: skip
    two = ["unet-drive", "rga-drive"]
    tree["campaigns"]["sample"] |= {"budget": "tiny", "seeds": [0], "experiments": two}


def build(path: Path, root: Path) -> None:
    """A checkout of `root` in which Snakemake has run the tiny campaign, committed and pushed."""
    subprocess.run(["git", "clone", "-q", str(root), str(path)], check=True)
    w = Work(path)
    (path / ".bin").mkdir()
    verb = path / ".bin/resegment"
    verb.write_text(VERB.format(python=sys.executable))
    verb.chmod(0o755)
    w.change(tiny)
    w.rate("unet-drive", 0.01)
    w.sh("git config user.email a@b; git config user.name t; rm -f dvc.lock; resegment plan")
    w.sh(f"dvc remote add --local -d store {path.parent / 'store'}; echo .bin >> .git/info/exclude")
    w.sh("echo .ran >> .git/info/exclude")
    assert w.plan() == EVERY  # in an empty checkout everything is planned
    w.snakemake()
    w.ran()
    w.sh("dvc push -q; git add -A; git commit -qm done")


def sealed(tree: dict) -> dict:
    """A run's edited manifest with the seal that fits it: what a careful forger writes."""
    rest = {k: v for k, v in tree.items() if k != "seal"}
    return rest | {"seal": fingerprint(rest)} if "seal" in tree else tree


def copied(finished: Path, path: Path) -> Work:
    shutil.copytree(finished, path, symlinks=True)
    return Work(path)
