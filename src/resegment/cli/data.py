"""`resegment data`: the datasets, what is there, what is missing, how to get it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from resegment import paths

data = typer.Typer(help="The datasets: what is there, what is missing, how to get it.",
                   no_args_is_help=True)  # fmt: skip


@data.command()
def status(
    names: Annotated[list[str] | None, typer.Argument(help="default: every known set")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
):
    """Say of each dataset what is there, what is missing or altered, and what to do next."""
    from resegment import fetch

    found = fetch.status(names)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for d in found:
        typer.echo(_described(d))


@data.command()
def add(
    name: str,
    path: Annotated[list[Path], typer.Argument(help="archives or folders")],
    unverified: Annotated[
        bool, typer.Option("--unverified", help="take altered files too, known by their names")
    ] = False,
):
    """Take in a dataset you have: archives or an unpacked folder, checked file by file."""
    from resegment import fetch

    result = fetch.add(name, path, unverified=unverified)
    typer.echo(f"{name}: {result['added']} files added, {result['already']} were there")
    _told(result)
    typer.echo(_described(result))


@data.command()
def get(
    name: str,
    mirror: Annotated[str | None, typer.Option(help="tried when the official source fails")] = None,
    keep: Annotated[Path | None, typer.Option(help="folder that keeps the archives")] = None,
):
    """Download an open dataset; for the others say where to register and what to run then."""
    from resegment import fetch

    result = fetch.get(name, mirror=mirror, into=keep)
    _told(result)
    typer.echo(_described(result))


def _told(result: dict) -> None:
    if result["taken"]:
        file = paths.registry(result["name"])
        typer.echo(f"  nobody vouches for {result['taken']} of the files: their hashes are now in "
                   f"{file}, and `git checkout {file}` undoes it")  # fmt: skip
    for file, why in result["rejected"].items():
        typer.echo(f"  refused  {file}: {why} has other content than the original")
    for problem in result["problems"]:
        typer.echo(f"  problem  {problem}")


def _described(d: dict) -> str:
    """One dataset's status as lines for a person."""
    lines = [f"{d['name']:10} {d['title']} ({d['access']}; {d['licence']})"]
    if d["expected"]:
        altered = f", {len(d['altered'])} altered" if d["altered"] else ""
        strange = f", {d['unverified']} unverified" if d["unverified"] else ""
        count = f"{d['present']} of {d['expected']} files"
        lines += [f"  {count} in {d['folder']}{altered}{strange}"]
    if d["present"] and d["unusable"]:
        lines += [f"  {len(d['usable'])} images usable, {len(d['unusable'])} not:"]
    for i, reason in list(d["unusable"].items())[:8]:
        lines += [f"  {i}: {reason}"] if d["present"] else []
    if d["late"]:
        n = len(d["late"])
        lines += [f"  {n} image{'s'[: n > 1]} came after it was ingested: "
                  f"`dvc repro -f --single-item ingest@{d['name']}` takes them in"]  # fmt: skip
    return "\n".join(lines + ([f"  next: {d['next']}"] if d["next"] else ["  complete"]))
