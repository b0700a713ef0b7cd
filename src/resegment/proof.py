"""Whether what stands in runs/ belongs together, and to this checkout.

DVC vouches for whatever `dvc commit -f` tells it. But what a stage was given stands in the manifest
beside what it made, and no commit changes that:

    params.yaml, code, pairs, initial weights -> manifest.json -> weights.safetensors, history.csv
        -> predictions/manifest.json -> maps -> scores/manifest.json -> metrics, histograms, curves

`doubts` follows this chain for one run; a link whose other end is not here is not judged. It finds
mistakes, not forgers: whether these weights give those maps, `resegment trace RUN METRIC --rerun`
says, and whether this training gives these weights, only the training again.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from resegment import closure, config, drawn, files, paths, schema
from resegment.errors import UserError
from resegment.files import fingerprint, md5, read_json

WEIGHTS, HISTORY, MANIFEST = TRAINED = "weights.safetensors", "history.csv", "manifest.json"
# A file of another shape.
NOT_WHOLE = OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError
MAX_HEADER = 16 << 20  # bytes; of the largest network some 30,000 are used


def source(root: str, run: dict) -> dict[str, Path]:
    """{path inside the package: file} of a module and the run's network."""
    return closure.files(root, f"resegment.models.{run['model']['name']}")


def other_code(then: dict[str, str], here: dict[str, Path]) -> list[str]:
    """The source files whose MD5 in a manifest is not that of the file here."""
    return [n for n in sorted(then.keys() | here)
            if n not in here or then.get(n) != md5(here[n])]  # fmt: skip


def changes(then: dict, now: dict, at: str = "") -> list[str]:
    """`train.epochs 20, here 2` for every value that is not the same."""
    out = []
    for key in sorted(then.keys() | now):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += changes(a, b, f"{at}{key}.")
        elif a != b:
            out.append(f"{at}{key} {a}, here {b}")
    return out


def unlike(manifest: dict, run: dict) -> dict[str, str]:
    """{"parameters", "data", "code" or "initial": how a run's manifest is not of this checkout}."""
    prints, wanted, out = manifest["fingerprints"], config.trained_by(run), {}
    if prints["parameters"] != fingerprint(wanted) or manifest["parameters"] != wanted:
        other = ", ".join(changes(manifest["parameters"], wanted)) or "they were altered"
        out["parameters"] = f"its parameters are not those of {paths.PARAMS} ({other})"
    pairs = paths.prepared(run["split"], run["recipe"])
    if (pairs / MANIFEST).is_file() and prints["data"] != md5(pairs / MANIFEST):
        out["data"] = f"it was trained on other pairs than those in {pairs}"
    code, here = manifest["code"], source("resegment.train", run)
    other = other_code(code, here)
    if other or prints["code"] != fingerprint(code):
        names = ", ".join(other) or "altered"
        out["code"] = f"its code is not the checkout's ({names} in src/resegment)"
    first = run["initial"] and paths.run(run["initial"]) / WEIGHTS
    if first and first.exists() and prints["initial"] != md5(first):
        out["initial"] = f"it started from other weights than {first}"
    return out


def kept(at: Path, run_id: str) -> Iterator[str]:
    """Sentences where weights and history in a run's folder are not those of its manifest."""
    manifest = read_json(at / MANIFEST)
    rest = {k: v for k, v in manifest.items() if k != "seal"}
    if manifest.get("seal", fingerprint(rest)) != fingerprint(rest):
        yield f"{at / MANIFEST} was altered"
    if manifest["run"] != run_id:
        yield f"{at / MANIFEST} is that of {manifest['run']}"
    known = {WEIGHTS: manifest["weights_md5"], HISTORY: manifest["history_md5"]}
    here = {file: md5(at / file) for file in known if (at / file).exists()}
    for file, digest in here.items():
        if digest != known[file]:
            yield f"{at / file} is not the file of its manifest"
    if here.get(WEIGHTS) == known[WEIGHTS]:
        made = header(at / WEIGHTS)
        if (made["run"], made["fingerprints"]) != (manifest["run"], manifest["fingerprints"]):
            yield f"{at / MANIFEST} is not that of its weights"


def header(weights: Path) -> dict:
    """What training wrote about a run into its weights."""
    with open(weights, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        known = json.loads(f.read(min(size, MAX_HEADER)))
    return json.loads(known["__metadata__"]["resegment"])


def maps(at: Path, run: dict, shown: dict, weights: str) -> Iterator[str]:
    """Sentences where the maps in a folder are not those that this checkout draws of a run.

    shown: of `drawn.of`; weights: the MD5 of the run's. The maps themselves are not hashed.
    """
    manifest, dataset = read_json(at / MANIFEST), shown["dataset"]
    if [manifest[k] for k in ("run", "dataset", "geometry")] != [
        run["run"], dataset, run["geometry"]]:  # fmt: skip
        yield (f"{at} has maps of {manifest['run']} on {manifest['dataset']} in another geometry "
               "or of another run")  # fmt: skip
        return
    if manifest["weights_md5"] != weights:
        yield f"the maps in {at} were drawn from other weights"
    for key in ("inference", "enhance"):
        if manifest[key] != run[key]:
            yield (f"its maps were drawn with {key} {manifest[key]}, {paths.PARAMS} has "
                   f"{run[key]}")  # fmt: skip
    if set(manifest["files"]) != {f"{i}.png" for i in shown["splits"]}:
        yield f"its maps in {at} are of other images than {dataset} has in this split here"
    yield from _images("maps are", manifest, dataset)
    if other := other_code(manifest["code"], source("resegment.predict", run)):
        yield f"its maps were drawn by other code ({', '.join(other)} in src/resegment)"


def _images(what: str, manifest: dict, dataset: str) -> Iterator[str]:
    folder = paths.native(dataset)
    if (folder / MANIFEST).is_file():
        table, known = folder / "manifest.csv", read_json(folder / MANIFEST)["files"]
        if manifest["images"] != md5(folder / MANIFEST) or known[table.name] != md5(table):
            yield f"its {what} of other images than those in {folder}"


def training(run: dict) -> str:
    """The stage of dvc.yaml that trains a run."""
    return f"train{'-from' if run['initial'] else ''}@{run['run']}"


def preparing(run: dict, params: schema.Params) -> str:
    """The stage of dvc.yaml that writes a run's pairs."""
    large = "" if params.recipes[run["recipe"]].cache else "-large"
    return f"prepare{large}@{run['split']}/{run['recipe']}"


def doubts(run: dict, params: schema.Params) -> list[tuple[str, str]]:
    """(stage, sentence) of each link of a run's chain that does not hold.

    run: as `config.resolve` gives it. Nothing is said of a run that is not here, nor of what lies
    behind a manifest that cannot be read.
    """
    at, name = paths.run(run["run"]), run["run"]
    if not (at / MANIFEST).is_file():
        return []
    stage = training(run)
    out = [(stage, said) for said in _whole(at / MANIFEST, _trained(at, run))]
    if any("is not whole" in said for _, said in out):
        return out
    pairs = paths.prepared(run["split"], run["recipe"])
    stage = preparing(run, params)
    out += [(stage, said) for said in _whole(pairs / MANIFEST, _prepared(run, params))]
    for dataset in (None, *run["cross"]):
        cross, key = ("-cross", paths.cross(name, dataset)) if dataset else ("", name)
        for verb, folder, found in (
            ("predict", paths.predictions(key), _drawn),
            ("score", paths.scores(key), _scored),
        ):
            said = _whole(folder / MANIFEST, found(run, params, dataset, key))
            out += [(f"{verb}{cross}@{key}", line) for line in said]
    return out


def _whole(manifest: Path, found: Iterator[str]) -> list[str]:
    out = []
    try:
        for said in found:
            out.append(said)
    except PermissionError:  # to make it anew would not help
        raise
    except NOT_WHOLE as e:
        reason = f"{type(e).__name__}: {' '.join(str(e).split())}"
        out.append(f"{manifest} is not whole or of an older version ({reason})")
    return out


def _trained(at: Path, run: dict) -> Iterator[str]:
    manifest = read_json(at / MANIFEST)
    yield from kept(at, run["run"])
    yield from unlike(manifest, run).values()


def _prepared(run: dict, params: schema.Params) -> Iterator[str]:
    at = paths.prepared(run["split"], run["recipe"])
    if not (at / MANIFEST).is_file():
        return
    made, table = read_json(at / MANIFEST), at / "manifest.csv"
    recipe = params.recipes[run["recipe"]].model_dump(mode="json", exclude={"cache"})
    if made["recipe"] != recipe:
        other = ", ".join(changes(made["recipe"], recipe))
        yield f"{at} is of another recipe than {paths.PARAMS} has ({other})"
    if made["files"][table.name] != md5(table):
        yield f"{table} is not the file of its manifest"
    elif (splits := _splits(run)) is not None:
        parts = {row["id"]: row["split"] for row in files.table(table, "id", "split")}
        if parts != {i: part for i, part in splits.items() if part != "test"}:
            yield f"{at} is of another split than {paths.split(run['split'])}"


def _splits(run: dict, dataset: str | None = None) -> dict[str, str] | None:
    """{id: train|val|test} of a run's images, where these are here."""
    known = (paths.native(dataset or run["dataset"]) / "manifest.csv").is_file()
    return drawn.of(run, dataset)["splits"] if known else None


def _drawn(run: dict, params: schema.Params, dataset: str | None, key: str) -> Iterator[str]:
    at = paths.predictions(key)
    if (at / MANIFEST).is_file():
        splits = _splits(run, dataset)
        if splits is None:  # any: the images are not here to say which
            splits = [n.removesuffix(".png") for n in read_json(at / MANIFEST)["files"]]
        shown = {"dataset": dataset or run["dataset"], "splits": splits}
        weights = read_json(paths.run(run["run"]) / MANIFEST)["weights_md5"]
        yield from maps(at, run, shown, weights)


def _scored(run: dict, params: schema.Params, dataset: str | None, key: str) -> Iterator[str]:
    at = paths.scores(key)
    if not (at / MANIFEST).is_file():
        return
    manifest, where = read_json(at / MANIFEST), dataset or run["dataset"]
    if [manifest["run"], manifest["dataset"]] != [key, where]:
        yield f"{at} has scores of {manifest['run']} on {manifest['dataset']}"
        return
    here = {p.name: md5(p) for p in at.iterdir() if p.name != MANIFEST}
    if other := sorted(n for n in here.keys() | manifest["files"]
                       if here.get(n) != manifest["files"].get(n)):  # fmt: skip
        yield f"{', '.join(str(at / n) for n in other)} missing or altered since they were scored"
    of = paths.predictions(key) / MANIFEST
    if of.is_file() and manifest["maps"] != md5(of):
        yield f"{at} was scored from other maps than those in {of.parent}"
    wanted = {n: p.model_dump(mode="json") for n, p in params.protocols.items()}
    own = paths.scores(run["run"]) / "metrics.json"
    if dataset and own.is_file():
        chosen = read_json(own)
        wanted = {n: p | {"threshold": chosen[n]["threshold"]} for n, p in wanted.items()}
    elif dataset:
        wanted = manifest["protocols"]
    if manifest["protocols"] != wanted:
        other = ", ".join(changes(manifest["protocols"], wanted))
        yield f"its scores are not under the protocols of {paths.PARAMS} ({other})"
    yield from _images("scores are", manifest, where)
    splits = _splits(run, dataset)
    if splits is not None and manifest["splits"] != fingerprint(dict(splits)):
        yield f"its scores are of another split of {where} than {paths.split(run['split'])}"
    if other := other_code(manifest["code"], closure.files("resegment.score")):
        yield f"its scores were counted by other code ({', '.join(other)} in src/resegment)"


def demand(runs: Iterable[dict], params: schema.Params) -> None:
    """Raise UserError, a line for each thing that is wrong, unless the chain of all runs holds."""
    found = [(run["run"], *doubt) for run in runs for doubt in doubts(run, params)]
    if found:
        wrong = len({run for run, *_ in found})
        lines = [f"  {run}: {said}: `dvc repro -f --single-item {stage}`"
                 for run, stage, said in found]  # fmt: skip
        head = (f"nothing is written, for {wrong} run{'s'[: wrong > 1]} cannot stand behind a "
                "number; make anew what is named, with a campaign active that has it, then "
                "`dvc repro`:")  # fmt: skip
        raise UserError("\n".join([head, *lines]))
