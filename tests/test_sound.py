"""Networks that cannot be trained are named before they are."""

import sys

import pytest

from resegment import closure, config, estimate, models, sound
from resegment.errors import UserError


@pytest.fixture
def params(root, monkeypatch):
    monkeypatch.chdir(root)
    return config.load()


GOOD = """from torch import nn

class FCN(nn.Module):
    def __init__(self, *, width: int = 8, depth: int = 1):
        super().__init__()
        self.stride = 1
        self.net = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x):
        return self.net(x)

build = FCN
"""


@pytest.fixture
def written(tmp_path, monkeypatch, params):
    """written(text): `params` where unet-drive has the network fcn of that text, and its file."""
    package = tmp_path / "src/resegment"
    (package / "models").mkdir(parents=True)
    for file in closure.PACKAGE.glob("models/*"):
        if file.name != "__pycache__":
            (package / "models" / file.name).symlink_to(file)
    monkeypatch.setattr(closure, "PACKAGE", package)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(package / "models")])

    def write(text, options=None):
        (package / "models/fcn.py").write_text(text)
        e = params.experiments["unet-drive"]
        model = e.model.model_copy(update={"name": "fcn", "options": options or {}})
        e = e.model_copy(update={"model": model})
        return params.model_copy(update={"experiments": {**params.experiments, "unet-drive": e}})

    yield write
    sys.modules.pop("resegment.models.fcn", None)
    sound.module.cache_clear()
    sound.whole.cache_clear()


FCN = "src/resegment/models/fcn.py"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("from torch", "import nosuchlib\nfrom torch",
         f"{FCN}, line 1: imports nosuchlib, which is not installed"),
        ("def forward(self, x):", "def forward(self, x)", f"{FCN}, line 9: expected ':'"),
        ("from torch import nn", "from torch import nnn", f"{FCN}, line 1: ImportError: cannot"),
        ("build = FCN\n", "", f"{FCN} has no build: name its network so"),
        ("width: int = 8", "width: int", f"{FCN}: width of build has no default: give it one"),
        ("nn.Conv2d", "nn.Conf2d", f"{FCN}, line 7: AttributeError: module"),
        ("self.net(x)", "self.nett(x)", f"{FCN}, line 10: AttributeError"),
        ("        self.stride = 1\n", "", f"{FCN}: the network has no stride: set self.stride to "),
        ("Conv2d(3, 1,", "Conv2d(3, 2,", "makes (2, 2, 128, 129) of "
         "(2, 3, 128, 129): it must be (2, 1, 128, 129), a logit for each pixel"),
        ("padding=1", "padding=1, stride=2", "makes (2, 1, 64, 65) of (2, 3"),
        ("self.net(x)", "(self.net(x), x)", f"{FCN}: the network makes a tuple of (2, 3"),
        ("self.net(x)", "[self.net(x), x] if self.training else self.net(x)",
         f"{FCN}: the network makes (2, 3, 128, 129) of (2, 3"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_train_is_one_sentence_before_it_does(written, old, new, said):
    assert old in GOOD
    params = written(GOOD.replace(old, new))
    with pytest.raises(UserError) as error:
        sound.check(params)
        estimate.summary([config.find(params, "sample-smoke/unet-drive/s0")], params)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_network_as_it_should_be_is_taken(written):
    params = written(GOOD, {"width": 4})
    sound.check(params)
    sound.whole("fcn", '{"width": 4}')


def test_an_option_that_is_none_is_named_by_its_key(written):
    have = "is none of the options of fcn \\(width, depth\\)"
    with pytest.raises(UserError, match=f"experiments.unet-drive.model.options.widht {have}"):
        sound.check(written(GOOD, {"widht": 4}))
    for part, where in (("models", "fcn"), ("experiments", "unet-drive"), ("", "")):
        params = written(GOOD)
        wrong = params.budgets["lite"].model_copy(update={"options": {"widht": 4}})
        budget = params.budgets["lite"].model_copy(update={part: {where: wrong}}) if part else wrong
        params = params.model_copy(update={"budgets": {**params.budgets, "lite": budget}})
        at = f"budgets.lite.{part}.{where}" if part else "budgets.lite"
        found = have if part else "is none of the options of bcdu_net"
        with pytest.raises(UserError, match=f"params.yaml: {at}.options.widht {found}"):
            sound.check(params)
    kwargs = GOOD.replace("*, width: int = 8, depth: int = 1", "**options")
    sys.modules.pop("resegment.models.fcn")
    sound.module.cache_clear()
    with pytest.raises(UserError, match="options.widht is none of .*its build names none"):
        sound.check(written(kwargs, {"widht": 4}))
