"""Results of a bundle come home: proven, copied, and recorded in dvc.lock as if trained here.

A run is taken only if its parameters, data and code are those of the checkout, by the fingerprints
in its manifest; if weights and history are those of that manifest; and if its maps were drawn from
these weights, by today's code, on today's images. This finds mistakes, not forgers: whether weights
give those maps, `resegment trace RUN METRIC --rerun` says afterwards.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from resegment import bundle, config, parcel, paths, proof, schema
from resegment.engines import leftovers, plan
from resegment.errors import UserError
from resegment.files import atomic, atomic_folder, md5, read_json

WEIGHTS, HISTORY, MANIFEST = TRAINED = proof.TRAINED
LOCK = Path("dvc.lock")


def adopt(folder: Path, names: list[str], replace: bool = False, check: bool = False) -> list[dict]:
    """Take the runs of a bundle (default: all) that belong to this checkout.

    replace: also where another finished result of the same run is here; check: take nothing.
    Returns {"run", "state": taken | here | refused, "why"} of each, in the bundle's order.
    Raises UserError where the folder is no bundle, or where another engine is at work here.
    """
    given = parcel.read(folder)
    known = {e["run"]["run"]: e for e in given["runs"]}
    if unknown := [n for n in names if n not in known]:
        raise UserError(f"{folder} has no run {', '.join(unknown)}; it has {', '.join(known)}")
    entries = [e for name, e in known.items() if name in (names or known)]
    plan.check(config.load())
    leftovers.mend()
    with _repo() as repo:
        params, out, new = config.load(), [], {}
        stale = set(repo.status())
        for entry in entries:
            run = entry["run"]["run"]
            try:
                prove(folder, entry, params, stale, new)
                state = compare(folder, entry, params, replace)
                out.append({"run": run, "state": state, "why": ""})
                new[run] = md5(folder / paths.run(run) / WEIGHTS)
            except UserError as e:
                out.append({"run": run, "state": "refused", "why": str(e)})
        accepted = [e for e in entries if e["run"]["run"] in new]
        if check or not accepted:
            return out
        for entry, found in zip(entries, out, strict=True):
            if found["state"] == "taken":
                take(folder, entry, params)
        before = LOCK.read_bytes() if LOCK.exists() else None
        with _undone(before):
            _commit(repo, [stage for entry in accepted for stage in made(entry, params)])
    with _repo() as repo, _undone(before):  # what was proven must be what was recorded
        params = config.load()
        stale = set(repo.status())
        for entry in accepted:
            prove(folder, entry, params, stale, {})
            same = compare(folder, entry, params, replace=False) == "here"
            if not same or stale & set(made(entry, params)):
                raise UserError(f"{entry['run']['run']}: something changed while it was taken, so "
                                "nothing is recorded: adopt it again")  # fmt: skip
    return out


@contextlib.contextmanager
def _repo() -> Iterator:
    """DVC's repository, locked: no other engine records anything meanwhile."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    try:
        with Repo() as repo, lock_repo(repo):
            yield repo
    except DvcException as e:
        raise UserError(f"DVC cannot record it: {' '.join(str(e).split())}") from None


def _commit(repo, names: list[str]) -> None:
    """What `dvc commit -f` does stage by stage, with dvc.lock written once, and atomically."""
    from dvc.dvcfile import Lockfile

    known = {stage.addressing: stage for stage in repo.index.stages}
    stages = [known[name] for name in names]
    for stage in stages:
        stage.save()
        stage.commit()
    logging.getLogger("dvc.dvcfile").setLevel(logging.WARNING)  # it would name the temporary file
    with atomic(LOCK) as tmp:
        if LOCK.exists():
            shutil.copyfile(LOCK, tmp)
        Lockfile(repo, str(tmp)).dump_stages(stages)


@contextlib.contextmanager
def _undone(before: bytes | None) -> Iterator[None]:
    """Put dvc.lock back as it was if anything goes wrong."""
    try:
        yield
    except BaseException:
        if before is None:
            LOCK.unlink(missing_ok=True)
        else:
            with atomic(LOCK) as tmp:
                tmp.write_bytes(before)
        raise


def prove(folder: Path, entry: dict, params: schema.Params, stale: set[str], new: dict) -> None:
    """Raise UserError, a sentence with run, difference and remedy, unless a run belongs here.

    stale: the stages that DVC calls stale; new: {run: MD5 of its weights} of those proven before.
    """
    name = entry["run"]["run"]
    run = config.find(params, name)
    if name not in {r["run"] for r in config.runs(params)}:
        raise UserError(f"{name}: its campaign is not active, so {plan.DVC_YAML} has no stage for "
                        f"it: add it to `active` in {paths.PARAMS} and run `resegment plan`"
                        )  # fmt: skip
    if not parcel.finished(folder, name):
        raise UserError(f"{name}: {folder} has not finished it: `python run.py {name}` there")
    try:
        manifest = _weights(folder, name)
        bundle.belongs(manifest, run, params)
        _initial(manifest["fingerprints"], run, new)
        for drawn in _wanted(entry, run):
            _maps(folder, drawn, run, manifest["weights_md5"])
    except proof.NOT_WHOLE as e:
        raise UserError(f"{name}: {folder / paths.run(name)} is not whole ({type(e).__name__}: {e})"
                        ": copy it from the node again") from None  # fmt: skip
    if behind := sorted(stale & _upstream(entry, run, params, new)):
        raise UserError(f"{name}: {', '.join(behind)} is stale here, so its data may not be what "
                        f"{paths.PARAMS} says: `dvc repro {' '.join(behind)}` first")  # fmt: skip


def _weights(folder: Path, name: str) -> dict:
    """The manifest of a run, which must be that of the weights and the history beside it."""
    at = folder / paths.run(name)
    for file in TRAINED:
        (at / file).stat()  # whole, or an OSError
    for said in proof.kept(at, name):
        raise UserError(f"{name}: {said}: copy it from the node again")
    return read_json(at / MANIFEST)


def _initial(prints: dict, run: dict, new: dict[str, str]) -> None:
    first = run["initial"]
    if not first:
        return
    file = paths.run(first) / WEIGHTS
    if first not in new and not file.exists():
        raise UserError(f"{run['run']}: it starts from {first}, which is not here: adopt that run "
                        "first")  # fmt: skip
    if prints["initial"] != new.get(first, md5(file) if file.exists() else None):
        raise UserError(f"{run['run']}: it started from other weights of {first} than those here: "
                        f"adopt {first} from the same bundle, or bundle it anew")  # fmt: skip


def _wanted(entry: dict, run: dict) -> list[dict]:
    """The maps of a bundle that a stage here makes, too: its own, and cross sets still wanted."""
    return [m for m in entry["maps"] if m["id"] == run["run"] or m["dataset"] in run["cross"]]


def _maps(folder: Path, drawn: dict, run: dict, weights: str) -> None:
    at, name = folder / paths.predictions(drawn["id"]), run["run"]
    again = "copy it from the node again, or bundle it anew"
    if drawn not in bundle.maps(run):
        raise UserError(f"{name}: its maps are of other images than {drawn['dataset']} has in this "
                        f"split here: bundle it anew, or predict it here")  # fmt: skip
    files = read_json(at / MANIFEST)["files"]
    here = {p.name: md5(p) for p in at.iterdir() if p.name != MANIFEST}
    if other := sorted(n for n in here.keys() | files if here.get(n) != files.get(n)):
        raise UserError(f"{name}: maps in {at} are missing or altered ({', '.join(other[:4])}): "
                        f"{again}")  # fmt: skip
    for said in proof.maps(at, run, drawn, weights):
        raise UserError(f"{name}: {said}: {again}")


def compare(folder: Path, entry: dict, params: schema.Params, replace: bool) -> str:
    """here | taken: whether the same result is here. UserError where another one is."""
    run = config.find(params, entry["run"]["run"])
    here = paths.run(run["run"])
    if not (here / MANIFEST).exists():
        return "taken"
    files = [here / WEIGHTS, here / HISTORY,
             *(paths.predictions(m["id"]) / MANIFEST for m in _wanted(entry, run))]  # fmt: skip
    other = [f for f in files if f.exists() and md5(f) != md5(folder / f)]
    if other and not replace:
        raise UserError(f"{run['run']}: {other[0]} is here from another training: --replace puts "
                        "this result in its place")  # fmt: skip
    return "here" if not other and all(f.exists() for f in files) else "taken"


def take(folder: Path, entry: dict, params: schema.Params) -> None:
    """Copy a proven run; its manifest comes last."""
    run = entry["run"]["run"]
    for name in TRAINED:
        with atomic(paths.run(run) / name) as tmp:
            shutil.copyfile(folder / paths.run(run) / name, tmp)
    for drawn in _wanted(entry, config.find(params, run)):
        with atomic_folder(paths.predictions(drawn["id"])) as tmp:
            for file in (folder / paths.predictions(drawn["id"])).iterdir():
                shutil.copyfile(file, tmp / file.name)


def made(entry: dict, params: schema.Params) -> list[str]:
    """The stages whose outputs a bundle's run brings."""
    run = config.find(params, entry["run"]["run"])
    crossed = [m["id"] for m in _wanted(entry, run) if m["id"] != run["run"]]
    return [proof.training(run), f"predict@{run['run']}", *(f"predict-cross@{m}" for m in crossed)]


def _upstream(entry: dict, run: dict, params: schema.Params, new: dict) -> set[str]:
    """The stages that made what a run was made from, but for runs that come home with it."""
    stages = {proof.preparing(run, params),
              *(f"ingest@{m['dataset']}" for m in _wanted(entry, run))}  # fmt: skip
    if run["initial"] and run["initial"] not in new:
        stages.add(proof.training(config.find(params, run["initial"])))
    return stages
