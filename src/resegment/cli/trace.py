"""`resegment trace`: everything behind a number, and whether it still holds."""

import contextlib
import json
import os
import re
from collections.abc import Callable
from typing import Annotated

import typer

from resegment import config
from resegment.errors import UserError

ROW = r"[a-z]+-\d+-\d+"  # of a published table
RUN = r"[\w-]+/[\w-]+/s\d+(/on-\w+)?"


def trace(
    target: Annotated[
        str, typer.Argument(help="a run, a published row (rga-3-11) or cell (rga-3-11.f1), a file "
                            "a stage makes, or a line of a table (reports/.../ledger.csv:12)")
    ],
    metric: Annotated[
        str, typer.Argument(help="of a run or a row, e.g. f1; a wrong one lists all")
    ] = "",
    protocol: Annotated[
        str, typer.Option(help="a protocol of params.yaml; default: common, or the row's own")
    ] = "",
    at: Annotated[str, typer.Option(metavar="COMMIT", help="as it stood in that commit")] = "",
    verify: Annotated[
        bool, typer.Option("--verify", help="hash all that is behind it again; exit 1 if altered")
    ] = False,
    again: Annotated[
        bool, typer.Option("--rerun", help="predict and score again; exit 1 if it differs")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
):  # fmt: skip
    """Say everything behind a number or a file, and whether all agree."""
    from resegment import paths
    from resegment import trace as tracing
    from resegment.trace import check, past, tables, upstream

    if target.startswith((".", "/")):
        target = os.path.relpath(target)
    if cell := re.fullmatch(rf"({ROW})\.(\w+)", target):
        if metric:
            raise UserError(f"{target} names its metric: give it without {metric}")
        target, metric = cell.groups()
    if metric and tables.split(target):
        raise UserError(f"{target} is a line, which has its own metric: give it without {metric}")
    whole_run = not metric and re.fullmatch(RUN, target)
    if whole_run and (at or verify):
        target, whole_run = str(paths.scores(target)), None
    if at and (verify or again):
        raise UserError("--verify and --rerun judge what is here now: give them without --at")
    if again and (verify or not metric):
        raise UserError("--rerun is of a run or a published row: name a metric, without --verify")
    if at and metric:
        runs = ([{"run": target, "protocol": "common"}] if "/" in target
                else past.measuring(target, at))  # fmt: skip
        found = [past.trace(r["run"], metric, protocol or r["protocol"], at) for r in runs]
        _show(_with_printed(found, target, metric), past.text, as_json)
        return
    if verify:
        found = check.check(target, metric, protocol)
        _show([found], check.text, as_json)
        if found["altered"]:
            raise typer.Exit(1)
        return
    if again:
        from resegment import rerun
        from resegment.protocols import Protocol

        known = {n: Protocol(**p.model_dump()) for n, p in config.load().protocols.items()}
        found = [rerun.rerun(run, metric, name, known)
                 for run, name in tracing.asked(target, protocol)]  # fmt: skip
        _show(found, rerun.text, as_json)
        if any(f["differences"] for f in found):
            raise typer.Exit(1)
        return
    if tables.split(target):
        _show([tables.follow(target, at or None)], tables.text, as_json)
        return
    if not metric and re.fullmatch(ROW, target):
        raise UserError(f"which number of {target}? name a metric, e.g. {target}.f1")
    if not metric and not whole_run:
        stages = upstream.behind(target, upstream.recorded(at or None))
        _show([{"file": target, "stages": stages}], upstream.text, as_json)
        return
    from resegment import published

    found = []
    for run, name in tracing.asked(target, protocol):
        key = paths.cross(run["run"], run["on"]) if run.get("on") else run["run"]
        if metric and not tracing.source(run["run"], key, metric).exists():  # a clone without runs
            with contextlib.suppress(UserError):  # without a table: trace says what is missing
                found.append(past.trace(key, metric, name, "HEAD"))
                continue
        deviations = published.applying(run["paper"])
        name = name if metric else ""
        found.append(tracing.trace(run, metric, name, deviations, run.get("on")))
    found = _with_printed(found, target, metric)
    _show(found, lambda one: (past if "commit" in one else tracing).text(one), as_json)


def _with_printed(found: list[dict], target: str, metric: str) -> list[dict]:
    """The traces of a published row, each with what is printed there."""
    from resegment import published

    if not re.fullmatch(ROW, target):
        return found
    row = published.row(target)
    printed = dict(zip(row["metric"], row["printed"], strict=True)).get(metric)
    return [one | {"published": printed} for one in found]


def _show(found: list[dict], text: Callable[[dict], str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found if len(found) > 1 else found[0], indent=1))
    else:
        typer.echo("\n\n".join(map(text, found)))
