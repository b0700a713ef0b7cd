"""What may stand in params.yaml: one frozen model of each of its parts, and how they refer."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Pixels = Annotated[int, Field(gt=0, le=16384)]
Count = Annotated[int, Field(ge=0, le=1024)]  # of threads
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Size = tuple[Pixels, Pixels]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
LOSSES = ("bce", "dice", "iou", "weighted_dice", "squared_dice", "pixel_iou")
NETWORKS = sorted(p.stem for p in (Path(__file__).parent / "models").iterdir()
                  if p.stem not in ("__init__", "__pycache__", "layers"))  # fmt: skip
ENHANCE = ("gray", "stretch", "clahe", "gamma")


def _once(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        twice = next(v for i, v in enumerate(values) if v in values[:i])
        raise ValueError(f"{twice!r} stands there twice: it would count twice")
    return values


Names = Annotated[tuple[Name, ...], AfterValidator(_once)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=100),
                  AfterValidator(_once)]  # fmt: skip


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Recipe(Section):
    """How images become training arrays on disk."""

    resize: Size | None = Field(None, description="height, width; anisotropic if the papers' is")
    pad: Size | None = Field(None, description="height, width; centred zeros, undone exactly")
    width: Pixels | None = Field(None, description="width after an isotropic resize")
    enhance: tuple[Literal[ENHANCE], ...] = Field((), description="steps before the resize")
    fov: bool = Field(False, description="write the field of view, too: for crops inside it")
    flips: bool = Field(False, description="write the horizontal and the vertical flip, too")
    rotations: int = Field(0, ge=0, le=360, description="N rotations by 360/N, ..., 360 degrees")
    flip_rotations: bool = Field(False, description="write both flips of every rotation, too")
    cache: bool = Field(True, description="keep it in the DVC cache; false for large derived sets")

    @model_validator(mode="after")
    def one_geometry(self):
        if sum(map(bool, (self.resize, self.pad, self.width))) > 1:
            raise ValueError("give resize, pad or width, not two of them")
        return self


class Protocol(Section):
    """Which pixels are scored, at which size, pooled how, and at which threshold."""

    region: Literal["fov", "frame"]
    space: Literal["native", "network"]
    pooling: Literal["pixels", "images"]
    threshold: Fraction | Literal["train"]


class Model(Section):
    name: Name = Field(description="a module in src/resegment/models")
    options: dict[str, bool | int | float | str | None | list[int]] = {}


class Optimiser(Section):
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(0.001, gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(0.0000001, gt=0, description="Keras' default; PyTorch's is 0.00000001")
    momentum: Fraction = 0.0
    weight_decay: float = Field(0.0, ge=0)


class Schedule(Section):
    name: Literal["constant", "step", "plateau", "onecycle"] = "constant"
    milestones: tuple[Positive, ...] = Field((), description="epochs after which lr is multiplied")
    factor: float = Field(0.1, gt=0, lt=1)
    patience: Positive = Field(5, description="plateau: epochs without improvement")


class Jitter(Section):
    """Largest relative changes of colour, in random order; hue as a share of its circle."""

    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class Augment(Section):
    """Drawn anew for every item of every epoch, from (seed, epoch, index) alone."""

    crop: Pixels | None = Field(None, description="side of the square cut out, pixels")
    inside_fov: bool = Field(False, description="cut only where the square is in the FOV")
    flips: bool = False
    warp: Fraction = Field(1.0, description="probability of rotate, scale, aspect and shift")
    rotate: float = Field(0.0, ge=0, le=180, description="largest angle to either side, degrees")
    scale: Fraction = Field(0.0, description="largest relative change of size")
    aspect: Fraction = Field(0.0, description="largest relative change of width against height")
    shift: Fraction = Field(0.0, description="largest shift, share of each side")
    gain: Fraction = Field(0.0, description="largest relative change of contrast, per channel")
    offset: Fraction = Field(0.0, description="largest change of brightness, share of full scale")
    jitter: Jitter = Jitter()


class Train(Section):
    epochs: Positive
    batch_size: Positive
    samples_per_epoch: Annotated[int, Field(gt=0, le=10_000_000)] | None = Field(
        None, description="null: every sample once"
    )
    loss: dict[Literal[LOSSES], Annotated[float, Field(gt=0)]] = Field(
        min_length=1, description="weight of each term"
    )
    alpha: Literal["one", "linear", "error"] = Field("one", description="factor on the loss")
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    monitor: Literal["train_loss", "val_loss", "val_f1", "val_acc"] = "train_loss"
    early_stopping: Positive | None = Field(None, description="epochs without improvement")
    weights: Literal["last", "best"] = "last"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: Annotated[Count, Field(gt=0)] = Field(
        1, description="CPU threads of a training; they change its bits"
    )
    workers: Count = Field(0, description="loader threads; they change nothing but time")
    determinism: Literal["strict", "fast"] = Field("strict", description="fast: on a GPU compiled, "
                                                   "and its bits need not repeat")  # fmt: skip


class Inference(Section):
    """The whole image at once, or overlapping patches whose maps are averaged."""

    patch: Pixels | None = Field(None, description="side of a patch, pixels; null: the image")
    stride: Pixels | None = Field(None, description="pixels from one patch to the next")
    engine: Literal["torch", "onnx"] = Field("torch", description="onnx: ONNX Runtime, on the CPU; "
                                             "a GPU's maps are torch's")  # fmt: skip

    @model_validator(mode="after")
    def both_or_none(self):
        if bool(self.patch) != bool(self.stride) or (self.stride or 0) > (self.patch or 0):
            raise ValueError("give patch and a stride that is not larger, or neither")
        return self


class Experiment(Section):
    paper: Literal["rga", "rsan", "bcdu", "hybridnetseg", "mininet"] | None = None
    rows: Names = Field((), description="ids of the published rows it re-measures")
    dataset: Name
    split: Name | None = Field(None, description="a file in data/splits; null: the dataset's own")
    recipe: Name
    model: Model
    train: Train
    initial: Name | None = Field(None, description="the experiment, in the same campaign and with "
                                 "the same seed, from whose weights training starts")  # fmt: skip
    inference: Name = "whole"
    protocol: Name


class Reduction(Section):
    """What replaces what the experiment says."""

    recipes: dict[Name, Name] = Field({}, description="the recipe that stands in for another")
    inference: Name | None = None
    options: dict[str, bool | int | float | str | None | list[int]] = {}
    train: dict = {}


class Budget(Reduction):
    """A declared reduction, for all networks and, beyond that, for some."""

    models: dict[Name, Reduction] = Field({}, description="laid over it for a model of that name")
    experiments: dict[Name, Reduction] = Field({}, description="in place of that, for one of them")

    def parts(self) -> dict[str, Reduction]:
        """{where below the budget, "" for itself: what is replaced there}."""
        of_models = {f".models.{m}": r for m, r in self.models.items()}
        of_experiments = {f".experiments.{e}": r for e, r in self.experiments.items()}
        return {"": self, **of_models, **of_experiments}


class Campaign(Section):
    experiments: Names = Field(min_length=1)
    seeds: Seeds = Field(min_length=1)
    budget: Name
    dataset: Name | None = Field(None, description="replaces the experiments' own dataset")
    cross: Names = Field((), description="datasets on whose test images every run is "
                                    "scored beside its own")  # fmt: skip


class Params(Section):
    active: Names
    campaigns: dict[Name, Campaign]
    budgets: dict[Name, Budget]
    recipes: dict[Name, Recipe]
    inference: dict[Name, Inference]
    protocols: dict[Name, Protocol]
    experiments: dict[Name, Experiment]
    anchors: dict = Field({}, alias="defaults", description="anchors for YAML merge keys")

    @model_validator(mode="after")
    def names_exist(self):
        def known(name, table, where):
            if name not in getattr(self, table):
                have = ", ".join(getattr(self, table)) or "none"
                raise ValueError(f"{where} names {name!r}, but {table} has only: {have}")

        def network(name, where):
            if name not in NETWORKS:
                raise ValueError(f"{where} names {name!r}, but src/resegment/models has only: "
                                 f"{', '.join(NETWORKS)}")  # fmt: skip

        if "common" not in self.protocols or "observer2" in self.protocols:
            raise ValueError("protocols needs common, under which all runs are compared, and none "
                             "may be called observer2")  # fmt: skip
        for name in self.active:
            known(name, "campaigns", "active")
        called: dict[str, str] = {}
        for key, campaign in self.campaigns.items():
            name = f"{key}-{campaign.budget}"
            if (other := called.setdefault(name, key)) != key:
                raise ValueError(f"the runs of campaigns.{other} and campaigns.{key} would both "
                                 f"stand in runs/{name}: rename one")  # fmt: skip
        for key, campaign in self.campaigns.items():
            known(campaign.budget, "budgets", f"campaigns.{key}.budget")
            for name in campaign.experiments:
                known(name, "experiments", f"campaigns.{key}.experiments")
                first = self.experiments[name].initial
                if first and first not in campaign.experiments:
                    raise ValueError(f"campaigns.{key}.experiments has {name}, which starts from "
                                     f"{first}: add it")  # fmt: skip
        for key, budget in self.budgets.items():
            for name in budget.models:
                network(name, f"budgets.{key}.models")
            for name in budget.experiments:
                known(name, "experiments", f"budgets.{key}.experiments")
            for part, reduction in budget.parts().items():
                for name in (*reduction.recipes, *reduction.recipes.values()):
                    known(name, "recipes", f"budgets.{key}{part}.recipes")
                if reduction.inference:
                    known(reduction.inference, "inference", f"budgets.{key}{part}.inference")
        for key, experiment in self.experiments.items():
            known(experiment.recipe, "recipes", f"experiments.{key}.recipe")
            known(experiment.protocol, "protocols", f"experiments.{key}.protocol")
            known(experiment.inference, "inference", f"experiments.{key}.inference")
            network(experiment.model.name, f"experiments.{key}.model.name")
            if experiment.initial:
                known(experiment.initial, "experiments", f"experiments.{key}.initial")
                if self.experiments[experiment.initial].model.name != experiment.model.name:
                    raise ValueError(f"experiments.{key}.initial names {experiment.initial!r}, "
                                     "which has another model: weights would not fit")  # fmt: skip
                line = [key]
                while first := self.experiments[line[-1]].initial:
                    if first in line:
                        raise ValueError(f"experiments.{key}.initial goes round in a circle: "
                                         f"{', '.join(line)}, {first}")  # fmt: skip
                    line.append(first)
        return self
