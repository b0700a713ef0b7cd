"""BCDU-Net: the ConvLSTM U-Net that one of the papers fine-tunes for retinal vessels.

The paper describes the network in half a page, with the layer names of the code of BCDU-Net (Azad,
Asadi-Aghbolaghi, Fathy, Escalera: "Bi-Directional ConvLSTM U-Net with Densley Connected
Convolutions", ICCV Workshops 2019, arXiv 1909.00166, github.com/rezazad68/BCDU-Net). This one is
written from both; filters and the order of layers are facts of that code. A U-Net of width 64
without batch normalisation in the encoder, whose skips meet the decoder in a ConvLSTM instead of a
concatenation; its bottleneck is one block (D1) or three densely connected ones (D3).

Where the paper is silent or its code disagrees (ids in data/published/deviations.csv):
1. The paper gives neither filters nor depth. Those of the code; D3, which the code's DRIVE training
   uses and has weights for: deviation bcdu-01-depth. D1 is `dense: 1`.
2. conv9 has two outputs and a sigmoid in the text, one in the code, after a 3x3 convolution to two
   channels and a ReLU: one, deviation bcdu-02-outputs. With `outputs: 2` channel 1 is the vessel's,
   and is what the network returns; no loss on it reaches channel 0. Everything passes the two
   channels of that ReLU: where both die, as seeds of narrow networks show, the map stays constant.
3. "ConvLSTM2D layers" is all the text says; BCDU-Net's paper has two directions, its code one. As
   in the code, a sequence of two steps, first the upsampled features, then the skip, of which the
   last state is kept. Gates are those of Keras 2, max(0, min(1, 0.2x + 0.5)), which Keras 3 and
   PyTorch define differently: deviation bcdu-03-convlstm.
4. Dropout is not mentioned. As in the code, half is dropped after every block of the bottleneck,
   and of the copy of conv3 that skips, not of the one that goes down: deviation bcdu-04-dropout.
5. The input is not stated; in the code it is gray. Images are RGB here and the network forms the
   luma of ITU-R BT.601 itself, by the weights of the code: deviation bcdu-05-gray.
6. "Pre-trained models" are not named. From scratch, with the code's initial weights: He normal cut
   at two deviations, orthogonal for the recurrence, Glorot uniform for the last layer, zero biases
   but one for the forget gate; batch normalisation with epsilon 1e-3 and running averages with
   0.99: deviation bcdu-06-initial-weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resegment.models.layers import to_gray

CUT = 0.87962566103423978  # what is left of a normal distribution's deviation, cut at +-2


def hard_sigmoid(x: Tensor) -> Tensor:
    """Keras 2's; `torch.nn.functional.hardsigmoid` has the slope 1/6."""
    return (0.2 * x + 0.5).clamp(0, 1)


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """[conv 3x3 -> ReLU] x 2."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


def up(inputs: int, outputs: int) -> nn.Sequential:
    """Deconvolution 2x2 -> BN -> ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 2, stride=2),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
        nn.ReLU(),
    )


class ConvLSTM(nn.Module):
    """Keras' ConvLSTM2D, 3x3: takes the steps of a sequence in order, gives the last state."""

    def __init__(self, inputs: int, filters: int):
        super().__init__()
        self.input = nn.Conv2d(inputs, 4 * filters, 3, padding=1)
        self.recurrent = nn.Conv2d(filters, 4 * filters, 3, padding=1, bias=False)

    def forward(self, *steps: Tensor) -> Tensor:
        state = cell = None  # zero, so that the first step needs neither
        for x in steps:
            gates = self.input(x)  # (B, 4f, h, w): input, forget, candidate, output
            if state is not None:
                gates = gates + self.recurrent(state)
            i, f, c, o = gates.chunk(4, 1)
            new = hard_sigmoid(i) * torch.tanh(c)
            cell = new if cell is None else hard_sigmoid(f) * cell + new
            state = hard_sigmoid(o) * torch.tanh(cell)  # (B, f, h, w)
        return state


class DenseBottleneck(nn.Module):
    """D1, and for D3 two blocks more, the last on both before it; dropout after each."""

    def __init__(self, inputs: int, outputs: int, dense: int):
        super().__init__()
        self.d1 = nn.Sequential(double_conv(inputs, outputs), nn.Dropout(0.5))
        self.dense = dense > 1
        if self.dense:
            self.d2 = nn.Sequential(double_conv(outputs, outputs), nn.Dropout(0.5))
            self.d3 = nn.Sequential(double_conv(2 * outputs, outputs), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.d1(x)
        return self.d3(torch.cat([self.d2(x), x], 1)) if self.dense else x


def he_normal(weight: Tensor) -> None:
    """Keras' he_normal, cut at two deviations; PyTorch's kaiming_normal_ is not."""
    std = math.sqrt(2 / weight[0].numel()) / CUT  # of a deconvolution, too: outputs x k x k
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def initialise(module: nn.Module) -> None:
    """Keras' initial weights, as the code asks for them."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        he_normal(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ConvLSTM):  # after its convolutions: `apply` takes children first
        nn.init.orthogonal_(module.recurrent.weight)
        with torch.no_grad():
            module.input.bias.chunk(4)[1].fill_(1)  # unit forget bias


class BCDUNet(nn.Module):
    """dense: blocks of the bottleneck, 3 (chosen) or 1. outputs: channels of conv9, 1 or 2.

    width: channels of the first level, 64 in the code.
    """

    def __init__(self, *, dense: int = 3, outputs: int = 1, width: int = 64):
        super().__init__()
        if dense not in (1, 3):
            raise TypeError(f"dense is 1 or 3, not {dense!r}")
        if outputs not in (1, 2):
            raise TypeError(f"outputs is 1 or 2, not {outputs!r}")
        w = width
        self.stride = 8
        self.conv1, self.conv2 = double_conv(1, w), double_conv(w, 2 * w)
        self.conv3, self.drop3 = double_conv(2 * w, 4 * w), nn.Dropout(0.5)
        self.bottleneck = DenseBottleneck(4 * w, 8 * w, dense)
        self.up6, self.up7, self.up8 = up(8 * w, 4 * w), up(4 * w, 2 * w), up(2 * w, w)
        self.merge6, self.merge7 = ConvLSTM(4 * w, 2 * w), ConvLSTM(2 * w, w)
        self.merge8 = ConvLSTM(w, w // 2)
        self.conv6, self.conv7 = double_conv(2 * w, 4 * w), double_conv(w, 2 * w)
        self.conv8 = nn.Sequential(double_conv(w // 2, w), nn.Conv2d(w, 2, 3, padding=1), nn.ReLU())
        self.conv9 = nn.Conv2d(2, outputs, 1)
        self.apply(initialise)
        nn.init.xavier_uniform_(self.conv9.weight)

    def forward(self, x: Tensor) -> Tensor:
        s1 = self.conv1(to_gray(x))  # (B, w, H, W)
        s2 = self.conv2(F.max_pool2d(s1, 2))  # (B, 2w, H/2, W/2)
        s3 = self.conv3(F.max_pool2d(s2, 2))  # (B, 4w, H/4, W/4)
        bottom = self.bottleneck(F.max_pool2d(s3, 2))  # (B, 8w, H/8, W/8)
        x = self.conv6(self.merge6(self.up6(bottom), self.drop3(s3)))  # (B, 4w, H/4, W/4)
        x = self.conv7(self.merge7(self.up7(x), s2))  # (B, 2w, H/2, W/2)
        x = self.conv8(self.merge8(self.up8(x), s1))  # (B, 2, H, W)
        return self.conv9(x)[:, -1:]  # (B, 1, H, W), the vessel's channel


build = BCDUNet
