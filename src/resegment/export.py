"""A trained network as one ONNX file, and the same in ONNX Runtime for prediction on the CPU.

The graph: `image` (batch, 3, height, width), float32, RGB in 0..1 (a uint8 image / 255), enhanced
and brought to the network's size as the run's recipe says; `probability` (batch, 1, height, width),
float32. Every size is taken: zero padding to the network's stride, its undoing and the sigmoid are
inside. The file's metadata say which run and weights it holds.

Needs the packages of the extra `onnx`. `lean` rewrites the graph, exact but for rounding: ONNX
Runtime keeps activations in blocks of 16 channels where vectors of 512 bits are, and falls back to
slow paths where a network of 8 has none.
"""

import copy
import io
import json
import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resegment import models, paths
from resegment.errors import UserError
from resegment.files import atomic, md5, read_json
from resegment.models.layers import forward_padded

OPSET = 17
BLOCK = 16  # channels that ONNX Runtime holds together
AXES = ("batch", "height", "width")


def write(run: dict, file: Path) -> None:
    """Write the network of a run, with its weights and where they come from, to an ONNX file.

    run: as `config.resolve` gives it. Raises UserError without weights or packages, and for a
    network that ONNX cannot say.
    """
    folder = paths.run(run["run"])
    if not (folder / "manifest.json").exists():
        raise UserError(f"{folder / 'manifest.json'} is missing: train {run['run']}, or "
                        "`dvc checkout`")  # fmt: skip
    weights = md5(folder / "weights.safetensors")  # first: says why a file cannot be read
    model = models.build(run["model"]["name"], run["model"]["options"])
    made = graph(models.load(model, folder / "weights.safetensors"))
    known = {
        "run": run["run"],
        "weights_md5": weights,
        "fingerprints": read_json(folder / "manifest.json")["fingerprints"],
        **{k: run[k] for k in ("model", "geometry", "enhance", "inference")},
    }
    for key, value in known.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        made.metadata_props.add(key=key, value=text)
    with atomic(file) as tmp:
        tmp.write_bytes(made.SerializeToString())


def packages():
    """(onnx, onnxruntime). Raises UserError where they are missing."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it tells its makers of every session
    try:
        import onnx
        import onnxruntime
    except ImportError as e:
        raise UserError(
            f"{e.name} is missing: ONNX needs `pip install 'resegment[onnx]'`"
        ) from None
    return onnx, onnxruntime


class Map(nn.Module):
    """What the graph computes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(forward_padded(self.model, image))


def graph(model: nn.Module):
    """The onnx.ModelProto of a network, for any batch, height and width."""
    onnx, _ = packages()
    some = torch.zeros(2, 3, 4 * model.stride + 1, 5 * model.stride - 1)  # padded on both sides
    plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    file = io.BytesIO()
    dynamic = {0: "batch", 2: "height", 3: "width"}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of tracing, and that this exporter is the older one
            torch.onnx.export(
                Map(plain).eval(), (some,), file, dynamo=False, opset_version=OPSET,
                input_names=["image"], output_names=["probability"],
                dynamic_axes={"image": dynamic, "probability": dynamic},
            )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(f"{type(model).__name__} cannot be written as ONNX ({reason}): predict "
                        "with inference engine torch") from None  # fmt: skip
    made = onnx.load_from_string(file.getvalue())
    lean(made)
    return made


def runner(model: nn.Module, threads: int) -> Callable[[Tensor], Tensor]:
    """(B, 3, H, W) float32 in 0..1 -> (B, 1, H, W) probabilities, by ONNX Runtime on the CPU.

    A session for every shape that is asked for, because known sizes make faster graphs.
    """
    _, runtime = packages()
    made = graph(model).SerializeToString()

    @lru_cache(maxsize=4)
    def session(*shape: int):
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # warnings are of its own graph rewriting
        for name, size in zip(AXES, shape, strict=True):
            options.add_free_dimension_override_by_name(name, size)
        return runtime.InferenceSession(made, options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> Tensor:
        batch, _, height, width = image.shape
        found = session(batch, height, width).run(None, {"image": image.contiguous().numpy()})
        return torch.from_numpy(found[0])

    return run


def lean(made) -> None:
    """Rewrite the convolutions of an onnx.ModelProto: `_melt`, then `_widen`."""
    onnx, _ = packages()
    nodes, stored = made.graph.node, made.graph.initializer
    weights = {x.name: onnx.numpy_helper.to_array(x) for x in stored}
    for node in [n for n in nodes if n.op_type == "Identity" and n.input[0] in weights]:
        weights[node.output[0]] = weights[node.input[0]]  # equal weights are kept once
    real = {n.output[0] for n in nodes if n.op_type in ("Conv", "ConvTranspose", "Relu", "Add")}
    for cast in [n for n in nodes if n.op_type == "Cast" and n.attribute[0].i == 1]:
        if cast.input[0] not in real:
            continue
        for node in nodes:  # `.float()` of what is float32 already
            node.input[:] = [cast.input[0] if i == cast.output[0] else i for i in node.input]
        nodes.remove(cast)
    _melt(nodes, weights)
    _widen(nodes, weights, {x.name for x in (*made.graph.input, *made.graph.output)})
    read = {i for n in nodes if n.op_type != "Identity" for i in n.input}
    for node in [n for n in nodes if n.op_type == "Identity" and n.output[0] in weights]:
        nodes.remove(node)
    del stored[:]
    stored.extend(onnx.numpy_helper.from_array(w, k) for k, w in weights.items() if k in read)
    del made.graph.value_info[:]


def _groups(node) -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1)


def _give(node, weights: dict, weight: np.ndarray, bias: np.ndarray | None) -> None:
    """Let a convolution use these weights, under names of its own."""
    for k, array in enumerate(x for x in (weight, bias) if x is not None):
        name = f"{node.output[0]}.{'weight' if k == 0 else 'bias'}"
        weights[name] = np.ascontiguousarray(array, np.float32)
        node.input[1 + k :] = [name]


def _melt(nodes, weights: dict) -> None:
    """A convolution that only a pointwise one reads becomes one with it, where that is less work.

    Nothing stands between them, so both are linear: expand and squeeze blocks, heads.
    """
    for first in [n for n in nodes if n.op_type == "Conv"]:
        readers = [n for n in nodes if first.output[0] in n.input]
        if len(readers) != 1 or readers[0].op_type != "Conv" or _groups(readers[0]) > 1:
            continue
        second = readers[0]
        (a, *bias_a), (b, *bias_b) = ([weights[i] for i in n.input[1:]] for n in (first, second))
        strides = [a.ints for a in second.attribute if a.name in ("strides", "pads")]
        if b.shape[2:] != (1, 1) or any(set(s) - {0, 1} for s in strides):
            continue
        b = b[:, :, 0, 0].astype(np.float64)
        if _groups(first) == 1 and len(b) * a[0].size <= a.size + b.size:
            weight = np.einsum("oc,cikl->oikl", b, a)
        elif _groups(first) == len(a) <= 4:  # depthwise on the image: too few channels for a block
            weight = np.einsum("oc,ckl->ockl", b, a[:, 0])
        else:
            continue
        bias = sum(bias_b, b @ bias_a[0] if bias_a else np.zeros(len(b)))
        second.input[0] = first.input[0]
        _give(second, weights, weight, bias)
        del second.attribute[:]
        second.attribute.extend(x for x in first.attribute if x.name != "group")
        nodes.remove(first)


def _widen(nodes, weights: dict, outer: set[str]) -> None:
    """Add channels of zeros, up to whole blocks, where nothing but convolutions and sums see them.

    Tensors that a sum, a ReLU or a depthwise convolution ties together keep equal channels, so they
    are widened together or not at all.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while name in leader:
            name = leader[name]
        return name

    def tie(*names: str) -> None:
        first, *others = dict.fromkeys(map(find, names))
        leader.update(dict.fromkeys(others, first))

    fixed, made = outer | set(weights), []  # weights: those that a sum adds
    for node in nodes:
        x, y = node.input[0] if node.input else "", node.output[0]
        if node.op_type in ("Relu", "Add"):
            tie(y, *node.input)
        elif node.op_type not in ("Conv", "ConvTranspose"):
            fixed |= {*node.input, *node.output}
        elif _groups(node) == 1:
            made.append((y, weights[node.input[1]].shape[node.op_type == "ConvTranspose"]))
        elif node.op_type == "Conv" and weights[node.input[1]].shape[:2] == (_groups(node), 1):
            tie(x, y)
        else:
            fixed |= {x, y}
    fixed = {find(name) for name in fixed}
    channels: dict[str, set[int]] = {}
    for name, count in made:
        channels.setdefault(find(name), set()).add(count)

    def width(name: str, now: int) -> int:
        few = find(name) in fixed or len(channels[find(name)]) > 1 or now < BLOCK // 2
        return now if few else -(-now // BLOCK) * BLOCK

    for node in nodes:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        transposed, grouped = node.op_type == "ConvTranspose", _groups(node) > 1
        weight, *bias = (weights[i] for i in node.input[1:])
        weight = weight.swapaxes(0, 1) if transposed else weight  # (O, I, k, k)
        outputs = width(node.output[0], len(weight))
        inputs = weight.shape[1] if grouped else width(node.input[0], weight.shape[1])
        if (outputs, inputs) == weight.shape[:2]:
            continue
        wide = np.zeros((outputs, inputs, *weight.shape[2:]))
        wide[: len(weight), : weight.shape[1]] = weight
        wide = wide.swapaxes(0, 1) if transposed else wide
        _give(node, weights, wide, np.pad(bias[0], (0, outputs - len(bias[0]))) if bias else None)
        if grouped:
            next(a for a in node.attribute if a.name == "group").i = outputs
