"""One ONNX file a network: the same maps, any size, what it says of itself, and what goes wrong."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

from resegment import cli, config, export, files, models, paths, predict
from resegment.closure import files as closure
from resegment.errors import UserError

onnx = pytest.importorskip("onnx")
CPU = torch.device("cpu")
RUN = "sample-smoke/mininet-drive/s0"
NETWORKS = [
    ("mini_net", {}),
    ("mini_net", {"reading": "gray"}),
    ("rga_net", {}),
    ("rga_net", {"attention": False}),
    ("rsan", {}),
    ("unet", {}),
    ("bcdu_net", {"width": 8}),
    ("hybridnetseg", {"deformable": False}),
]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(name, options):
    """A network whose running averages are those of noise, so that its maps are not flat."""
    torch.manual_seed(1)
    model = models.build(name, options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
            nn.init.normal_(module.bias, std=0.3)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.rand(2, 3, 48, 48))
    return model.eval()


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_maps_are_those_of_torch_at_any_size(name, options):
    model = trained(name, options)
    model.to(memory_format=torch.channels_last)  # as `predict.load` gives it
    drawn = predict.drawing(model, CPU, "onnx")
    for shape in ((1, 3, 49, 70), (2, 3, 48, 64)):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            ours, theirs = drawn(image), predict.drawing(model, CPU)(image)
        assert ours.shape == theirs.shape == (shape[0], 1, *shape[2:])
        off = (ours - theirs).abs().max()
        assert off < 1e-4 and off < theirs.std() / 100


def test_a_deformable_network_is_exported_or_refused_in_a_sentence():
    model = trained("hybridnetseg", {})
    image = torch.rand(1, 3, 40, 50)
    try:
        drawn = predict.drawing(model, CPU, "onnx")
    except UserError as e:
        assert "inference engine torch" in str(e)
    else:
        with torch.inference_mode():
            assert (drawn(image) - predict.drawing(model, CPU)(image)).abs().max() < 1e-4


def test_convolutions_without_anything_between_them_are_one_and_blocks_are_full():
    """Mini-Net: squeeze after expand, 16 channels where it has 8."""
    made = export.graph(trained("mini_net", {}))
    weights = {x.name: tuple(x.dims) for x in made.graph.initializer}
    convs = [weights[n.input[1]] for n in made.graph.node if n.op_type == "Conv"]
    plain = sum(isinstance(m, nn.Conv2d) for m in models.build("mini_net", {}).modules())
    assert len(convs) <= plain - 22  # one for each of 5 blocks' four branches and of both skips
    assert all(shape[0] % 16 == 0 for shape in convs if shape[0] > 2)


class Unsayable(nn.Module):
    stride = 1

    def forward(self, x):
        return torch.linalg.eigvals(x[:, :1, :1, :1]).real + x[:, :1]


def test_a_network_that_onnx_cannot_say_is_one_sentence():
    with pytest.raises(UserError, match="Unsayable cannot be written as ONNX"):
        export.graph(Unsayable())


def test_without_the_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime is missing: .*resegment\[onnx\]"):
        predict.drawing(models.build("unet", {}), CPU, "onnx")


def test_on_a_gpu_torch_draws_and_says_so(capsys):
    predict.drawing(models.build("unet", {}), torch.device("cuda"), "onnx")
    assert "torch draws on cuda" in capsys.readouterr().err


@pytest.fixture
def checkout(tmp_path, monkeypatch, root):
    """A run with weights that nobody trained."""
    for file in ("params.yaml", "dvc.yaml"):
        (tmp_path / file).write_bytes((root / file).read_bytes())
    monkeypatch.chdir(tmp_path)
    folder = paths.run(RUN)
    folder.mkdir(parents=True)
    run = config.find(config.load(), RUN)
    model = trained(run["model"]["name"], run["model"]["options"])
    from safetensors.torch import save_file

    save_file(model.state_dict(), folder / "weights.safetensors")
    files.write_json(folder / "manifest.json", {"fingerprints": {"code": "c", "data": "d"}})
    return tmp_path


def test_the_file_says_what_it_is(checkout):
    answer = CliRunner().invoke(cli.app, ["export", RUN])
    assert answer.exit_code == 0 and "sample-smoke-mininet-drive-s0.onnx" in answer.output
    made = onnx.load("sample-smoke-mininet-drive-s0.onnx")
    onnx.checker.check_model(made)
    said = {p.key: p.value for p in made.metadata_props}
    assert said["run"] == RUN
    assert said["weights_md5"] == files.md5(paths.run(RUN) / "weights.safetensors")
    assert json.loads(said["fingerprints"]) == {"code": "c", "data": "d"}
    assert [x.name for x in (*made.graph.input, *made.graph.output)] == ["image", "probability"]


def test_a_run_without_weights_is_one_sentence(checkout):
    run = config.find(config.load(), RUN)
    (paths.run(RUN) / "manifest.json").unlink()
    with pytest.raises(UserError, match="train sample-smoke/mininet-drive/s0"):
        export.write(run, checkout / "a.onnx")
    assert not (checkout / "a.onnx").exists()


def test_a_campaign_is_no_run(checkout):
    answer = CliRunner().invoke(cli.app, ["export", "sample-smoke"])
    assert "sample-smoke is a campaign: name one of its runs" in str(answer.exception)


def test_the_engine_is_a_tracked_parameter_of_the_maps_and_not_of_the_weights(root):
    tree = yaml.safe_load((root / "params.yaml").read_text())
    assert tree["inference"]["whole"]["engine"] == "torch"
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    assert "inference.${item.inference}" in stages["predict"]["do"]["params"]
    run = config.find(config.load(root / "params.yaml"), RUN)
    assert run["inference"]["engine"] == "torch" and "inference" not in config.trained_by(run)


def test_code_of_the_engine_is_behind_the_maps_and_not_behind_the_weights():
    assert "export.py" in closure("resegment.predict")
    assert "export.py" not in closure("resegment.train")


def test_both_engines_draw_the_same_16_bit_map():
    model = trained("rga_net", {})
    image = np.random.default_rng(3).integers(0, 256, (45, 52, 3), dtype=np.uint8)
    for inference in ({"patch": None, "stride": None}, {"patch": 16, "stride": 8}):
        a, b = (predict.probability(predict.drawing(model, CPU, e), image, CPU, inference)
                for e in ("torch", "onnx"))  # fmt: skip
        assert np.abs(a.astype(int) - b).max() <= 6  # of 65535
