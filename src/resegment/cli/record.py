"""What a verb records must be true: nothing may change while it runs, and code has a commit."""

import contextlib
import subprocess
from pathlib import Path

from resegment import closure, config, paths
from resegment.engines import plan as planning
from resegment.errors import UserError
from resegment.files import fingerprint, md5


@contextlib.contextmanager
def held(*files: Path, roots: tuple[str, ...] = (), run: str | None = None):
    """Fail a stage whose parameters, code or data changed while it ran: nothing false is recorded.

    DVC would record what params.yaml says at the end, whatever the stage was started with.
    """

    def now() -> dict[str, str]:
        params = config.load()
        seen = {str(f): md5(f) for f in [*files, *closure.files(*roots).values()] if f.exists()}
        resolved = config.find(params, run) if run else params.model_dump(mode="json")
        return seen | {f"{paths.PARAMS}{f' ({run})' if run else ''}": fingerprint(resolved)}

    planning.check(config.load())
    before = now()
    yield
    after = now()
    changed = sorted(k for k in before | after if before.get(k) != after.get(k))
    if changed:
        raise UserError(f"{', '.join(changed)} changed during the stage; nothing is recorded: run "
                        "it again")  # fmt: skip


def origin() -> dict:
    """The commit the code comes from, and whether the tree differed from it."""

    def git(*words: str) -> str | None:
        answer = subprocess.run(["git", *words], capture_output=True, text=True)
        return answer.stdout.strip() if answer.returncode == 0 else None

    with contextlib.suppress(FileNotFoundError):
        status = git("status", "--porcelain", "--untracked-files=no", "--", "src")
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(status)}
    return {"git_commit": None, "git_dirty": None}
