"""The networks of this project with their costs, beside what the papers print of them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from resegment import costs, models, published


class Entry(NamedTuple):
    """A network with its options, at a height and width in pixels that it works on.

    row: the published row that prints what this network costs, or the one it is a reading of.
    """

    name: str
    options: dict
    height: int
    width: int
    note: str
    row: str | None = None


# Table II does not print the filters of its rows without *: a standard U-Net's, and half of them
WIDE, MIDDLE = [64, 128, 256, 512], [32, 64, 128, 256]

CATALOGUE = [
    Entry("unet", {}, 512, 512, "HybridNetSeg's table 5", "hybridnetseg-5-01"),
    Entry("unet", {"width": 8, "depth": 3, "norm": True}, 512, 512, "baseline of the small ones"),
    Entry("rga_net", {}, 512, 512, "chosen; table II: IAA+PD+UNET*", "rga-3-11"),
    Entry("rga_net", {"partial_decoder": "conv"}, 512, 512, "equation 5 to the letter", "rga-3-11"),
    Entry("rga_net", {"partial_decoder": "none"}, 512, 512, "IAA+UNET with the filters of *"),
    Entry("rga_net", {"attention": False}, 512, 512, "UNET with the filters of *"),
    Entry("rga_net", {"filters": WIDE}, 512, 512, "table II: IAA+PD+UNET"),
    Entry("rga_net", {"filters": WIDE, "partial_decoder": "none"}, 512, 512, "table II: IAA+UNET"),
    Entry("rga_net", {"filters": WIDE, "attention": False}, 512, 512, "table II: UNET"),
    Entry("rga_net", {"filters": MIDDLE}, 512, 512, "IAA+PD+UNET, half the filters"),
    Entry("rga_net", {"filters": MIDDLE, "partial_decoder": "none"}, 512, 512,
          "IAA+UNET, half the filters"),
    Entry("rga_net", {"filters": MIDDLE, "attention": False}, 512, 512, "UNET, half the filters"),
    Entry("rsan", {}, 592, 592, "the authors' code, at DRIVE's size"),
    Entry("rsan", {}, 1008, 1008, "the same at CHASE_DB1's size"),
    Entry("rsan", {"deconvolution": 2}, 592, 592, "the text's 2x2 deconvolution"),
    Entry("rsan", {"variant": "dropblock"}, 592, 592, "tables 1 and 2: Backbone+DropBlock"),
    Entry("rsan", {"variant": "backbone"}, 592, 592, "tables 1 and 2: Backbone"),
    Entry("bcdu_net", {}, 64, 64, "D3, one patch"),
    Entry("bcdu_net", {"outputs": 2}, 64, 64, "the text's two outputs"),
    Entry("bcdu_net", {"dense": 1}, 64, 64, "D1"),
    Entry("hybridnetseg", {}, 512, 512, "the authors' code, at DRIVE's size", "hybridnetseg-5-02"),
    Entry("hybridnetseg", {}, 960, 960, "the same at CHASE_DB1's size"),
    Entry("hybridnetseg", {}, 784, 1168, "the same at HRF's size"),
    Entry("hybridnetseg", {"supervised": True}, 512, 512, "mixed loss; predicts the same"),
    Entry("hybridnetseg", {"grouped": False}, 512, 512, "1x1 convolutions as table 1 reads",
          "hybridnetseg-5-02"),
    Entry("hybridnetseg", {"deformable": False}, 512, 512, "without deformable convolutions"),
    Entry("hybridnetseg", {"squeeze": False}, 512, 512, "without squeeze and excitation"),
    Entry("mini_net", {}, 512, 512, "chosen reading", "mininet-4-16"),
    Entry("mini_net", {"reading": "gray"}, 512, 512, "the other exact reading", "mininet-4-16"),
]  # fmt: skip


PRINTED = ("params_m", "gmacs", "size_mb", "seconds")  # metrics of cells.csv that are costs


def table() -> list[dict]:
    """Every entry with its `costs.cost` and two values more: `published`, the paper's numbers by
    metric, as texts with the digits it printed; `paper_macs`, of the networks of HybridNetSeg's
    table 5 counted as there, else None."""
    known, rows = published.cells(), []
    for entry in CATALOGUE:
        what = (entry.name, entry.options, entry.height, entry.width)
        cells = published.row(entry.row, known) if entry.row else known[:0]
        printed = dict(zip(cells["metric"], cells["printed"], strict=True))
        printed = {metric: printed[metric] for metric in PRINTED if metric in printed}
        theirs = entry.name == "hybridnetseg" or "gmacs" in printed
        paper_macs = macs_as_in_table_5(*what) if theirs else None
        rows.append({**entry._asdict(), **costs.cost(*what), "paper_macs": paper_macs,
                     "published": printed})  # fmt: skip
    return rows


def macs_as_in_table_5(name: str, options: dict, height: int, width: int) -> int:
    """Operations of one image as HybridNetSeg's table 5 must have counted its multiply-adds.

    The paper does not say how. Both of its numbers follow, to the digits it prints, from the sum of
    - the multiply-adds of convolutions and deconvolutions, and one for every output of those that
      have a bias;
    - two for every output of a batch normalisation, one for every output of a ReLU or ReLU6;
    - one for every value that the decoder upsamples to.
    Pooling and means are left out (with them U-Net had 192.99 and HybridNetSeg 3.53), and so are
    sigmoids, sums, products and the sampling of deformable convolutions. The side outputs are
    counted as the authors' code computes them: always, and by a 1x1 convolution after upsampling to
    the image's size; here they are convolved before it, and not at all in prediction. This
    upsampling is left out (3.57 with it), as by a counter of modules that sees no functions.
    height and width are multiples of the network's stride.
    """
    supervised = name == "hybridnetseg"
    with torch.device("meta"):
        model = models.build(name, options | {"supervised": True} if supervised else options)
        image = torch.zeros(1, 3, height, width)
    found = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal found
        if isinstance(layer, costs.LAYERS):
            found += costs.multiply_adds(layer, inputs, output)
            found += output.numel() if layer.bias is not None else 0
        else:
            found += output.numel() * (2 if isinstance(layer, nn.BatchNorm2d) else 1)

    for layer in model.modules():
        if isinstance(layer, (*costs.LAYERS, nn.BatchNorm2d, nn.ReLU, nn.ReLU6)):
            layer.register_forward_hook(add)
    if supervised:  # the shape is all that counts: nothing is upsampled, here or after the head
        for head in (model.side2, model.side3, model.side4):
            head.register_forward_pre_hook(
                lambda head, _: image.new_empty(1, head.in_channels, height, width)
            )
    with Upsampling() as upsampled, torch.no_grad():
        model.train(supervised)(image)
    return found + upsampled.values


class Upsampling(TorchFunctionMode):
    """Counts the values that calls of `interpolate` make, where they change the size."""

    values = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is F.interpolate and out.shape != args[0].shape:
            self.values += out.numel()
        return out


HEAD = ("model", "options", "size", "trainable", "total", "paper", "GMACs", "table 5", "paper",
        "MiB", "paper", "what it is")  # fmt: skip
LEGEND = (
    "trainable, total: parameters, without and with the statistics of batch normalisation (Keras)",
    "GMACs: 10^9 multiply-adds of convolutions, for one image of this size; MiB: total as float32",
    "table 5: GMACs with biases, normalisation, ReLU and upsampling, as HybridNetSeg counts",
    "paper: what is printed, in millions, 10^9 and MB, for the network that this is a reading of",
)


def text(rows: list[dict]) -> str:
    """The rows of `table` for a terminal, a line each."""
    lines = [HEAD, *map(_line, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = {HEAD.index(name) for name in ("model", "options", "what it is")}

    def aligned(i: int, cell: str) -> str:
        return cell.ljust(widths[i]) if i in words else cell.rjust(widths[i])

    out = ["  ".join(aligned(*cell) for cell in enumerate(line)).rstrip() for line in lines]
    return "\n".join([*out, "", *LEGEND])


def _line(row: dict) -> tuple[str, ...]:
    def giga(macs: int | None) -> str:
        return "" if macs is None else f"{macs / 1e9:.2f}"

    def plain(value: object) -> str:
        return ",".join(map(str, value)) if isinstance(value, list) else str(value).lower()

    printed = row["published"].get
    return (
        row["name"], " ".join(f"{k}={plain(v)}" for k, v in row["options"].items()),
        f"{row['height']}x{row['width']}", f"{row['trainable']:,}", f"{row['total']:,}",
        printed("params_m", ""), giga(row["macs"]), giga(row["paper_macs"]), printed("gmacs", ""),
        f"{row['mib']:.2f}", printed("size_mb", ""), row["note"],
    )  # fmt: skip
