"""The stages behind a file, as dvc.lock has them, and whether what is on disk is what they made."""

import difflib
import subprocess
from pathlib import Path

import yaml

from resegment import dialects, files, paths
from resegment.datasets import sums
from resegment.errors import Unreadable, UserError
from resegment.files import md5, sha256
from resegment.trace import dvc_name, files_md5


def shown(name: str, at: str | None = None) -> str:
    """The text of a file of the checkout, or as it stood in the commit `at`."""
    if at is None:
        if not Path(name).is_file():
            raise UserError(f"{name} is not here: name a file of this checkout")
        found = Path(name).read_bytes()
    else:
        # a commit is no option: `--output=FILE` would write
        command = ["git", "show", "--end-of-options", f"{at}:{name}"]
        answer = subprocess.run(command, capture_output=True)
        if answer.returncode:
            said = " ".join(answer.stderr.decode(errors="replace").split())
            raise UserError(f"git has no {name} in {at}: {said}")
        found = answer.stdout
    try:
        return found.decode()
    except UnicodeDecodeError:
        raise UserError(f"{name} is no text: name a table") from None


def read(name: str, at: str | None = None) -> dict:
    """A YAML file, now or at a commit: plain, not validated, as its shape may have been another."""
    where = f"{name}{f' of {at}' if at else ''}"
    try:
        found = dialects.plain(shown(name, at))
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(e).split())[:300]}") from None
    if not isinstance(found, dict):
        raise UserError(f"{where} holds no mapping: `git checkout {name}` restores it")
    return found


def recorded(at: str | None = None) -> dict[str, dict]:
    """{stage: its entry} of dvc.lock, now or at a commit.

    Raises UserError, with the first such stage, where an entry has not the shape that DVC gives it.
    """
    stages = read("dvc.lock", at).get("stages", {})
    for name, stage in stages.items() if isinstance(stages, dict) else [("stages", stages)]:
        if not isinstance(name, str) or not _whole(stage):
            raise UserError(f"dvc.lock{f' of {at}' if at else ''}: {name} is not as DVC writes it: "
                            "`git checkout dvc.lock` restores it")  # fmt: skip
    return stages


def _whole(stage: object) -> bool:
    """Whether an entry of dvc.lock has a command, files with an MD5, and parameters by file."""

    def file(entry: object) -> bool:
        return isinstance(entry, dict) and all(
            isinstance(entry.get(k), str) for k in ("path", "md5")
        )

    return (
        isinstance(stage, dict)
        and isinstance(stage.get("cmd", ""), str)
        and all(isinstance(stage.get(side, []), list) for side in ("deps", "outs"))
        and all(map(file, [*stage.get("deps", []), *stage.get("outs", [])]))
        and isinstance(stage.get("params", {}), dict)
        and isinstance(stage.get("params", {}).get(str(paths.PARAMS), {}), dict)
    )


def behind(path: str, lock: dict) -> dict[str, dict]:
    """{stage: its entry in `lock`} of everything that led to a file or folder, makers first.

    Raises UserError, with near matches, where no stage makes `path`.
    """
    path = path.rstrip("/")
    made = {o["path"]: name for name, s in lock.items() for o in s.get("outs", [])}

    def makers(wanted: str) -> list[str]:
        return [name for out, name in made.items()
                if out == wanted or wanted.startswith(f"{out}/") or out.startswith(f"{wanted}/")
                ]  # fmt: skip

    out: dict[str, dict] = {}

    def add(name: str) -> None:
        if name not in out:
            for dep in lock[name].get("deps", []):
                for maker in makers(dep["path"]):
                    add(maker)
            out[name] = lock[name]

    for name in makers(path):
        add(name)
    if not out:
        near = difflib.get_close_matches(path, made, 3, 0.4)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise UserError(f"dvc.lock has no stage that makes {path}{hint}")
    return out


def verify(stages: dict[str, dict], values: dict) -> list[str]:
    """One line for each thing on disk that is not what `stages` recorded.

    values: params.yaml as a tree. Files that are not here are not judged.
    """
    wrong: dict[str, None] = {}
    recorded: dict[str, tuple[str, str]] = {}
    for name, stage in stages.items():
        for side in ("outs", "deps"):
            for entry in stage.get(side, []):
                path, digest = entry["path"], entry["md5"]
                first = recorded.setdefault(path, (digest, name))
                if first[0] != digest:
                    wrong[f"{path}: {name} used another content than {first[1]} recorded"] = None
        for key, value in stage.get("params", {}).get(str(paths.PARAMS), {}).items():
            for line in differences(key, value, at_key(values, key)):
                wrong[f"{paths.PARAMS}: {line}"] = None
    for path, (digest, _) in recorded.items():
        wrong |= dict.fromkeys(altered(Path(path), digest))
        if Path(path) == paths.registry(Path(path).stem):
            folder = paths.raw(Path(path).stem)
            for name, known in sums.read(Path(path)).expected.items():
                if (folder / name).is_file() and sha256(folder / name) != known:
                    wrong[f"{folder / name}: has not the sha256 that {path} names"] = None
    return list(wrong)


def altered(path: Path, digest: str) -> list[str]:
    """Lines that name what in a file or folder differs from its MD5 in dvc.lock, or from the MD5s
    in the folder's own manifest, which `dvc commit -f` does not change."""
    if not path.exists():
        return []
    lines, whole = [], files_md5(path) if path.is_dir() else {}
    if "manifest.json" in whole:
        try:
            known, here = files.named(path), whole.copy()
        except Unreadable:
            return [f"{path / 'manifest.json'}: is not whole"]
        del here["manifest.json"]
        lines = [f"{path / n}: is missing" for n in sorted(known.keys() - here)]
        lines += [f"{path / n}: is not in the folder's manifest"
                  for n in sorted(here.keys() - known)]  # fmt: skip
        lines += [f"{path / n}: is not the file that the folder's manifest names"
                  for n in sorted(here.keys() & known) if here[n] != known[n]]  # fmt: skip
    if not lines and (dvc_name(whole) if path.is_dir() else md5(path)) != digest:
        lines = [f"{path}: is not the content that dvc.lock records"]
    return lines


def at_key(tree: dict, key: str):
    for part in str(key).split("."):  # an altered dvc.lock may hold numbers as keys
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def differences(key: str, recorded, now) -> list[str]:
    """`key.sub: recorded ..., now ...` for every leaf that differs."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        return [line for k in sorted(recorded | now, key=str)
                for line in differences(f"{key}.{k}", recorded.get(k), now.get(k))]  # fmt: skip
    same = recorded == now or (isinstance(now, float) and _float(recorded) == now)
    return [] if same else [f"{key}: dvc.lock has {recorded}, now it is {now}"]


def _float(value) -> float | None:
    """DVC writes 1e-08, which YAML 1.1 reads as text: the number is meant."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def text(found: dict) -> str:
    """{"file", "stages"} as lines for a person."""
    return f"{found['file']}\n{described(found['stages'])}"


def described(stages: dict[str, dict]) -> str:
    """One line a stage: its name, what it made and the MD5."""
    lines = []
    for name, stage in stages.items():
        lines += [f"  {name}    {stage.get('cmd', '')}"]
        lines += [f"    {o['md5']:36} {o['path']}" for o in stage.get("outs", [])]
    return "\n".join(lines)
