"""What a bundle is to those who make it, run it and bring its results home.

A folder with `runs.json` (what to train, on what, with which splits), `files.md5` (every file in
it, as `md5sum -c` reads it), `src/` and `data/`. The node adds runs/<run>/ as a checkout has it,
and there `bundle.md5`, the MD5 of `files.md5`: this run is finished, and that bundle made it.
"""

import json
from pathlib import Path

from resegment import paths
from resegment.errors import UserError
from resegment.files import atomic, md5

RUNS, SUMS, RECEIPT = "runs.json", "files.md5", "bundle.md5"


def read(folder: Path) -> dict:
    """`runs.json` of a bundle. Raises UserError where the folder is none."""
    if not (folder / RUNS).is_file():
        raise UserError(f"{folder} is no bundle, it has no {RUNS}: name a folder that `resegment "
                        "bundle` made")  # fmt: skip
    if sums(folder).get(RUNS) != md5(folder / RUNS):
        raise UserError(f"{folder / RUNS} is not the one that was bundled: copy the folder again")
    return json.loads((folder / RUNS).read_text())


def sums(folder: Path) -> dict[str, str]:
    """{path in the bundle: MD5} of everything that was put into it."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
        pairs = (line.split("  ", 1) for line in lines)
        return {name: digest for digest, name in pairs}
    except (OSError, ValueError):
        raise UserError(f"{folder / SUMS} is not readable: copy the folder again") from None


def write_sums(folder: Path) -> None:
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    with atomic(folder / SUMS) as tmp:
        tmp.write_text("".join(f"{md5(folder / n)}  {n}\n" for n in names))


def check(folder: Path) -> None:
    """Raise UserError where a file of the bundle is missing or altered."""
    wanted = sums(folder)
    lost = [n for n in wanted if not (folder / n).is_file()]
    other = [n for n in wanted if n not in lost and md5(folder / n) != wanted[n]]
    if lost or other:
        said = [f"{what} {', '.join(names[:4])}{' ...' * (len(names) > 4)}"
                for what, names in (("missing", lost), ("altered", other)) if names]  # fmt: skip
        raise UserError(f"{len(lost + other)} of the bundle's {len(wanted)} files are not as they "
                        f"were ({'; '.join(said)}): copy the folder again")  # fmt: skip


def receipt(folder: Path, run_id: str) -> Path:
    return folder / paths.run(run_id) / RECEIPT


def finished(folder: Path, run_id: str) -> bool:
    """Whether this bundle trained the run and drew its maps."""
    file = receipt(folder, run_id)
    return file.is_file() and file.read_bytes() == md5(folder / SUMS).encode()
