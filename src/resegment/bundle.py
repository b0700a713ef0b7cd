"""One folder that trains and predicts runs on a machine without DVC, Snakemake or network.

It holds the code that those runs import, their resolved parameters, the pairs and images that they
read, and one command. The MD5 of the prepared manifest and of every source file travel in the runs'
own manifests, by which `resegment adopt` knows that results belong to a checkout.
"""

import importlib
import re
import shutil
import tomllib
from pathlib import Path

from resegment import closure, config, drawn, native, parcel, paths, proof, schema
from resegment.errors import UserError
from resegment.files import atomic_folder, md5, named, read_json, table, write_json

PACKAGES = {"torch": "torch", "numpy": "numpy", "cv2": "opencv-python",
            "safetensors": "safetensors", "tqdm": "tqdm"}  # fmt: skip
COMMAND = '''\
"""Trains and predicts what this folder holds: see README.txt."""

import os
import sys

if sys.version_info < (3, 11):
    sys.exit("run.py: Python is %d.%d here: use 3.11 or newer" % sys.version_info[:2])
HERE = os.path.dirname(os.path.abspath(__file__))
os.chdir(HERE)
sys.path.insert(0, os.path.join(HERE, "src"))

from resegment.node import main

if __name__ == "__main__":
    sys.exit(main())
'''
README = """\
{count} runs of resegment, to be trained and predicted on this machine:

    python run.py [--device auto|cpu|cuda] [--side-by-side N] [RUN...]

--side-by-side 3 keeps three runs on each card at the same time. Stopped or killed, the same
command goes on after the last whole epoch. Finished runs are skipped; a run that fails leaves the
others alone and makes the exit code 1. The command checks this copy first, as does
`md5sum --quiet -c {sums}`. It needs no network, and Python 3.11 or newer with
{packages}

Results stand in runs/. Bring the folder home ({runs}, {sums} and runs/ are enough of it)
and type in the checkout that it came from:

    resegment adopt FOLDER

Made from commit {commit}{dirty}.
It holds images of {sets}: their licences go with them.

{names}
"""


def chosen(params: schema.Params, names: list[str]) -> list[dict]:
    """The runs of those ids and campaigns (drive-lite), active or not; makers of weights first."""
    known = config.runs(params, tuple(params.campaigns))
    for name in names:
        if not any(name in (r["run"], r["campaign"]) for r in known):
            campaign = params.campaigns.get(name)
            meant = f"did you mean {name}-{campaign.budget}? " if campaign else ""
            raise UserError(f"no run or campaign {name!r} in {paths.PARAMS}: {meant}`resegment "
                            "plan --list` shows them all")  # fmt: skip
    picked = {r["run"]: r for r in known if r["run"] in names or r["campaign"] in names}

    def before(run: dict | None) -> int:
        """How many runs must have been trained before it, one from the other."""
        return 1 + before(picked.get(run["initial"])) if run else 0

    return sorted(picked.values(), key=before)


def maps(run: dict) -> list[dict]:
    """The maps of a run that can be drawn here: {"id", "dataset", "splits"} of each set.

    Its own images, and the test images of every other set of its campaign that has been ingested.
    """
    here = [d for d in run["cross"] if (paths.native(d) / "manifest.csv").is_file()]
    return [drawn.of(run), *(drawn.of(run, dataset) for dataset in here)]


def prepared(run: dict, params: schema.Params) -> Path:
    """The folder of a run's pairs. Raises UserError where it is not there or of another recipe."""
    folder = paths.prepared(run["split"], run["recipe"])
    recipe = params.recipes[run["recipe"]]
    file, wanted = folder / "manifest.json", recipe.model_dump(mode="json", exclude={"cache"})
    if not file.is_file() or read_json(file).get("recipe") != wanted:
        raise UserError(f"{run['run']}: {folder} is "
                        f"{'of another recipe' if file.is_file() else 'missing'}: "
                        f"`dvc repro {proof.preparing(run, params)}`, with a campaign active that "
                        "has it")  # fmt: skip
    return folder


def belongs(manifest: dict, run: dict, params: schema.Params) -> None:
    """Raise UserError unless a run's manifest has the checkout's parameters, data and code."""
    commit = manifest["origin"].get("git_commit")
    again = f"`git checkout {commit[:7]}`, or bundle it anew" if commit else "bundle it anew"
    other = proof.unlike(manifest, run)
    for key in ("parameters", "data", "code"):
        if key == "data":
            prepared(run, params)
        if key in other:
            remedy = "prepare them as they were, or bundle it anew" if key == "data" else again
            raise UserError(f"{run['run']}: {other[key]}: {remedy}")


def contents(runs: list[dict], params: schema.Params) -> dict[str, tuple[Path, str | None]]:
    """{path in the bundle: (file here, the MD5 that a manifest gives it)} of code and data."""
    models = {f"resegment.models.{r['model']['name']}" for r in runs}
    code = closure.files("resegment.node", *sorted(models))
    parsing = {
        "resegment.config",
        "resegment.dialects",
        "resegment.schema",
    }  # parameters travel resolved
    for module in closure.PLUMBING - parsing:
        name = f"{module.removeprefix('resegment').removeprefix('.') or '__init__'}.py"
        code[name] = closure.PACKAGE / name
    out = {f"src/resegment/{name}": (file, None) for name, file in code.items()}
    carried = {r["run"] for r in runs}
    for run in runs:
        # training makes the other variants from the untouched pairs
        folder = prepared(run, params)
        rows = table(folder / "manifest.csv", "operation", "image", "label")
        rows = [row for row in rows if row["operation"] == "none"]
        pairs = [row[k] for row in rows for k in ("image", "label", "fov") if row.get(k)]
        out |= _of_manifest(folder, pairs)
        for shown in maps(run):
            known = native.manifest(shown["dataset"])
            images = [known[i]["image"] for i in shown["splits"]]
            out |= _of_manifest(paths.native(shown["dataset"]), images)
        if run["initial"] and run["initial"] not in carried:
            out |= _initial(run, params)
    return out


def _of_manifest(folder: Path, names: list[str]) -> dict[str, tuple[Path, str | None]]:
    known = named(folder)
    if lost := {"manifest.csv", *names} - known.keys():
        raise UserError(f"{folder / 'manifest.json'} does not name {min(lost)}: `dvc status` tells "
                        "which stage makes it again")  # fmt: skip
    out = {str(folder / n): (folder / n, known[n]) for n in ("manifest.csv", *names)}
    return out | {str(folder / "manifest.json"): (folder / "manifest.json", None)}


def _initial(run: dict, params: schema.Params) -> dict[str, tuple[Path, str | None]]:
    """The weights that a run starts from, which must be today's."""
    first = paths.run(run["initial"])
    if not (first / "manifest.json").is_file():
        raise UserError(f"{run['run']} starts from the weights of {run['initial']}, which are not "
                        "here: bundle that run, too, or train it first")  # fmt: skip
    manifest = read_json(first / "manifest.json")
    belongs(manifest, config.find(params, run["initial"]), params)
    file = first / "weights.safetensors"
    return {str(file): (file, manifest["weights_md5"])}


def wanted() -> dict[str, dict[str, str]]:
    """{module: its package, the version here, the least that pyproject.toml allows}."""
    with open(closure.PACKAGE.parents[1] / "pyproject.toml", "rb") as f:
        given = tomllib.load(f)["project"]["dependencies"]
    least = dict(re.fullmatch(r"([\w.-]+)>=([\d.]+).*", line).groups() for line in given)
    return {module: {"package": package, "least": least[package],
                     "home": str(importlib.import_module(module).__version__)}
            for module, package in PACKAGES.items()}  # fmt: skip


def bundle(runs: list[dict], params: schema.Params, out: Path, origin: dict) -> dict:
    """Write the folder `out`, whole or not at all; returns how many files and bytes it has.

    runs: as `chosen` gives them; origin: where the code came from. Raises UserError where the
    folder is there already, or where pairs, images or weights are missing or damaged.
    """
    if out.exists():
        raise UserError(f"{out} is there already: name another folder with --out, or remove it")
    with atomic_folder(out) as folder:
        for name, (file, digest) in contents(runs, params).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if file.is_file():
                shutil.copyfile(file, folder / name)
            if not file.is_file() or digest not in (None, md5(folder / name)):
                raise UserError(f"{file} is not what the manifest beside it says: `dvc status` "
                                "tells which stage makes it again")  # fmt: skip
        packages = wanted()
        write_json(folder / parcel.RUNS, {
            "origin": origin, "packages": packages,
            "runs": [{"run": r, "trained_by": config.trained_by(r), "maps": maps(r)} for r in runs],
        })  # fmt: skip
        (folder / "run.py").write_text(COMMAND)
        needs = [f"    {p['package']} >= {p['least']} (at home {p['home']})"
                 for p in packages.values()]  # fmt: skip
        sets = {m["dataset"] for r in runs for m in maps(r)}
        (folder / "README.txt").write_text(README.format(
            count=len(runs), packages="\n".join(needs), sums=parcel.SUMS, runs=parcel.RUNS,
            commit=origin["git_commit"], sets=", ".join(sorted(sets)),
            dirty=" with changes that are not committed" if origin["git_dirty"] else "",
            names="\n".join(r["run"] for r in runs)))  # fmt: skip
        parcel.write_sums(folder)
        files = [f for f in folder.rglob("*") if f.is_file()]
        return {"files": len(files), "bytes": sum(f.stat().st_size for f in files)}
