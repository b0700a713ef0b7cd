"""data/registry/<name>.sha256: which bytes a dataset's raw files are, and who says so.

Lines as sha256sum writes them, and comments (#). The official hashes stand first. Below the line
`# unverified: ...` stand the files of this copy that nobody vouches for; the official line that
such a file replaces stays as a comment, so that the original can still be recognised.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from resegment import files
from resegment.errors import UserError

MARK = "# unverified: not the original files"
LINE = re.compile(r"(?:# )?([0-9a-f]{64})  (.+)")


@dataclass
class Sums:
    """notes: comment lines. official, unverified: path below the dataset's folder -> sha256."""

    notes: list[str] = field(default_factory=list)
    official: dict[str, str] = field(default_factory=dict)
    unverified: dict[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> dict[str, str]:
        """Path -> sha256 of what should be there: the official file unless one replaces it."""
        return self.official | self.unverified


def read(path: Path) -> Sums:
    """Parse a list; a missing one is empty. Raises UserError for a line of another kind."""
    sums = Sums()
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text: restore it from git") from None
    for number, line in enumerate(lines):
        entry = LINE.fullmatch(line)
        below = MARK in lines[:number]
        if entry and not (below and line.startswith("#")):
            known = sums.unverified if below else sums.official
            file = PurePosixPath(entry[2])
            if file.is_absolute() or ".." in file.parts or entry[2] in known:
                raise UserError(
                    f"{path}: line {number + 1}: {entry[2]!r} leads out of the dataset's folder or "
                    "stands there twice: restore the file from git"
                )
            known[entry[2]] = entry[1]
        elif line.startswith("#") and line != MARK:
            sums.notes.append(line)
        elif line.strip() and line != MARK:
            raise UserError(
                f"{path}: line {number + 1} is no sha256 and path: restore the file from git"
            )
    return sums


def write(path: Path, sums: Sums) -> None:
    """Write the list: the same bytes for the same content."""
    lines = list(sums.notes)
    for name, digest in sums.official.items():
        lines.append(f"{'# ' if name in sums.unverified else ''}{digest}  {name}")
    if sums.unverified:
        lines.append(MARK)
        lines += [f"{digest}  {name}" for name, digest in sorted(sums.unverified.items())]
    with files.atomic(path) as tmp:
        tmp.write_text("".join(f"{line}\n" for line in lines))
