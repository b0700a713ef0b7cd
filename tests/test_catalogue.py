"""`resegment models`: every network once, its costs, and the printed ones out of cells.csv."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from resegment import catalogue, models, published
from resegment.catalogue import CATALOGUE, macs_as_in_table_5
from resegment.cli import app


@pytest.fixture(scope="module")
def rows():
    return catalogue.table()


def test_nothing_is_named_twice_and_everything_is_explained():
    keys = [repr(entry[:4]) for entry in CATALOGUE]
    assert len(set(keys)) == len(keys) and all(entry.note for entry in CATALOGUE)


def test_every_network_is_there(root):
    shared = {"__init__", "__pycache__", "layers"}
    files = {path.stem for path in (root / "src/resegment/models").iterdir()}
    assert {entry.name for entry in CATALOGUE} == files - shared


def test_every_option_that_changes_a_cost_is_there():
    named = {(entry.name, option) for entry in CATALOGUE for option in entry.options}
    assert named == {
        *(("unet", o) for o in ("width", "depth", "norm")),
        *(("rga_net", o) for o in ("filters", "partial_decoder", "attention")),
        *(("rsan", o) for o in ("variant", "deconvolution")),
        *(("bcdu_net", o) for o in ("dense", "outputs")),
        *(("hybridnetseg", o) for o in ("grouped", "deformable", "squeeze", "supervised")),
        ("mini_net", "reading"),
    }


def test_published_numbers_are_those_of_the_cells(rows):
    cells = published.cells()
    own = cells[cells.metric.isin(catalogue.PRINTED) & (cells.role != "quoted")]
    assert len(own) > 0
    shown = {(r["row"], m): text for r in rows for m, text in r["published"].items()}
    for cell in own.itertuples():
        if cell.row in {r["row"] for r in rows}:
            assert shown.pop((cell.row, cell.metric)) == cell.printed
    assert not shown
    papers = set(own.paper)  # each of them has a row here
    assert papers == {r["row"].partition("-")[0] for r in rows if r["row"]}


def test_table_5_is_met_to_the_printed_digits(rows):
    """Its parameters, multiply-adds and size; U-Net's 119 MB is no size of its parameters."""
    met = {}
    for row in rows:
        if "gmacs" in row["published"] and "grouped" not in row["options"]:
            digits = {m: len(v.partition(".")[2]) for m, v in row["published"].items()}
            found = {"params_m": row["trainable"] / 1e6, "gmacs": row["paper_macs"] / 1e9,
                     "size_mb": row["mib"]}  # fmt: skip
            met[row["name"]] = {
                m: f"{v:.{digits[m]}f}" == row["published"][m] for m, v in found.items()
            }
    yes = dict.fromkeys(("params_m", "gmacs", "size_mb"), True)
    assert met == {"hybridnetseg": yes, "unet": yes | {"size_mb": False}}


def test_table_5_is_counted_part_by_part():
    """U-Net by hand at 16 x 16: width 2, two levels."""
    options = {"width": 2, "depth": 2}
    convolutions = 9 * (3 * 2 + 2 * 2 + 4 * 2 + 2 * 2) * 256 + 9 * (2 * 4 + 4 * 4) * 64
    convolutions += 4 * 4 * 2 * 64 + 2 * 256  # deconvolution, head
    biases = 4 * 2 * 256 + 2 * 4 * 64 + 2 * 256 + 256
    relus = 4 * 2 * 256 + 2 * 4 * 64
    plain = convolutions + biases + relus
    assert macs_as_in_table_5("unet", options, 16, 16) == plain
    normed = macs_as_in_table_5("unet", options | {"norm": True}, 16, 16)
    assert normed == plain + 2 * relus  # one normalisation before every ReLU


class Dispatched(TorchDispatchMode):
    """The same sum over torch's own operations, whoever asks for them."""

    VALUES = {"native_batch_norm": 2, "relu": 1, "hardtanh": 1, "upsample_bilinear2d": 1}
    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":
            _, weight, bias, *_ = args
            self.total += out[:, 0].numel() * weight.numel() + (bias is not None) * out.numel()
        elif name in self.VALUES:
            first = out[0] if isinstance(out, tuple) else out
            self.total += self.VALUES[name] * first.numel()
        return out


@pytest.mark.parametrize(("height", "width"), [(512, 512), (64, 96)])
def test_side_outputs_are_counted_at_the_images_size(height, width):
    torch.use_deterministic_algorithms(False)  # a training in this process takes other operations
    with torch.device("meta"):
        model, image = models.build("hybridnetseg", {}), torch.zeros(1, 3, height, width)
    with Dispatched() as dispatched, torch.no_grad():
        model.train()(image)  # without side outputs
    heads = (43 + 70 + 100 + 3) * height * width  # a weight a channel, a bias a head
    for options in ({}, {"supervised": True}):
        counted = macs_as_in_table_5("hybridnetseg", options, height, width)
        assert counted == dispatched.total + heads


def test_the_command_prints_a_line_each_and_json(rows, monkeypatch):
    monkeypatch.setattr(catalogue, "table", lambda: rows)
    printed = CliRunner().invoke(app, ["models"]).output.splitlines()
    names = [line.split()[0] for line in printed[1 : 1 + len(rows)]]
    assert names == [row["name"] for row in rows]
    [line] = [line for line in printed if line.startswith("rsan ") and "deconvolution=2" in line]
    assert line.split()[2:7] == ["592x592", "997,269", "1,000,763", "24.49", "3.82"]
    assert max(map(len, printed)) <= 180
    again = json.loads(CliRunner().invoke(app, ["models", "--json"]).output)
    assert again == json.loads(json.dumps(rows))
