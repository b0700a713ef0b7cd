"""`resegment export`, `ship` and `segment`: what is done with the weights of a finished run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from resegment import config, devices, paths
from resegment.cli.record import alone
from resegment.errors import UserError

Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]


def export(
    name: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="a run, or shipped weights")],
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="default: RUN.onnx, here")] = None,
):
    """Write a network with its weights to an ONNX file, and compare its maps with torch's."""
    from resegment import exported, shipped

    if "/" not in name and name not in shipped.names() and paths.PARAMS.exists():
        params = config.load()
        if name in (f"{key}-{c.budget}" for key, c in params.campaigns.items()):
            raise UserError(f"{name} is a campaign: name one of its runs, as `resegment plan "
                            "--list` shows them")  # fmt: skip
    file = to or Path(f"{name.replace('/', '-')}.onnx")
    off = (exported.write(config.find(config.load(), name), file) if "/" in name
           else exported.of_shipped(name, file))  # fmt: skip
    typer.echo(f"{file}: RGB in 0..1 to probabilities, {file.stat().st_size / 2**20:.1f} MiB; "
               f"ONNX Runtime and torch differ by at most {off:.1e}")  # fmt: skip


def ship(
    run: Annotated[str, typer.Argument(metavar="RUN|CAMPAIGN/EXPERIMENT",
                                       help="a run, or an experiment for its best seed by F1 on "
                                       "the validation images, e.g. drive-lite/unet-drive")],
    name: Annotated[str, typer.Option(help="the model's name; default: the experiment's")] = "",
):  # fmt: skip
    """Make a proven run's weights part of the package, with their provenance and a card."""
    from resegment import ship as stage
    from resegment import shipped

    with alone("ship", "weights"):
        made = stage.ship(run, config.load(), name)
    for kind in ("safetensors", "json", "md"):
        typer.echo(f"{shipped.file(made, kind)}: {shipped.file(made, kind).stat().st_size:,} bytes")


def segment(
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE|FOLDER...")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="where results go")] = None,
    model: Annotated[str, typer.Option(help="default: the best of DRIVE by validation")] = "",
    device: Device = "auto",
    engine: Annotated[
        str | None, typer.Option(help="onnx or torch; default: onnx on the CPU, where it is")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="show the models, with figures")] = False,
):
    """Find the vessels in fundus photographs of any kind and size, by weights of this package."""
    from resegment import shipped

    if list_:
        typer.echo(shipped.text())
        return
    if not images or not out:
        raise UserError("segment what, and where to? resegment segment IMAGE|FOLDER... --out DIR")
    name = model or shipped.default()
    shipped.load(name)
    from resegment.datasets import photograph

    found = photograph.chosen(images, out)
    over = photograph.passed_over(images, out)
    out.mkdir(parents=True, exist_ok=True)
    with devices.claim(device) as where:
        from resegment import segment as stage
        from resegment.unpack import plain

        devices.usable(where)
        problems = stage.segment(found, name, out, where, engine)
    done = len(found) - len(problems)
    typer.echo(f"{out}: {done} of {len(found)} images by {name}{', summary.csv' * (done > 0)}")
    if over:
        names = ", ".join(plain(f.name) for f in over[:3]) + ", ..." * (len(over) > 3)
        typer.echo(f"passed over: {len(over)} in folders that are no image file ({names})")
    for said in problems:
        print("resegment:", plain(said), file=sys.stderr)
    if problems:
        raise typer.Exit(1)
