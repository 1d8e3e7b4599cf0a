"""The encoder: torchvision's ResNets with a stem that fits the image size, and a small one for CPU runs.

Maps views (B, 3, S, S) to features (B, d): global average pooling, then one linear layer.
"""

from __future__ import annotations

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

from tcc_fast.method.batch_norm import BatchNorm2d
from tcc_fast.method.max_pool import MaxPool
from tcc_fast.method.own_encoder import build_own_encoder
from tcc_fast.settings import ModelConfig


class SmallResNet(nn.Module):
    """Three stages of one basic block with w, 2 w and 4 w channels; about 80 000 parameters with w = 16."""

    def __init__(self, feature_dim: int, stem: str, width: int = 16) -> None:
        super().__init__()
        self.stem = _stem(width, stem)
        self.stages = nn.Sequential(
            _block(width, width, 1), _block(width, 2 * width, 2), _block(2 * width, 4 * width, 2)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, feature_dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, view: Tensor) -> Tensor:
        return self.fc(self.pool(self.stages(self.stem(view))).flatten(1))


def _block(inputs: int, outputs: int, stride: int) -> BasicBlock:
    downsample = None
    if stride != 1 or inputs != outputs:
        downsample = nn.Sequential(conv1x1(inputs, outputs, stride), BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride, downsample, norm_layer=BatchNorm2d)


def _stem(channels: int, kind: str) -> nn.Sequential:
    if kind == "3x3":
        convolution = nn.Conv2d(3, channels, 3, 1, 1, bias=False)
        return nn.Sequential(convolution, BatchNorm2d(channels), nn.ReLU(inplace=True))
    convolution = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
    return nn.Sequential(convolution, BatchNorm2d(channels), nn.ReLU(inplace=True), MaxPool())


def build_encoder(config: ModelConfig) -> nn.Module:
    """The encoder that ``config.backbone`` and ``config.stem`` name.

    Raises:
        ValueError: it is one of the user's, and cannot be made; says why.
    """
    if config.has_own_backbone:
        return build_own_encoder(config)
    if config.backbone == "resnet_small":
        return SmallResNet(config.feature_dim, config.stem, config.width)
    encoder = getattr(torchvision.models, config.backbone)(num_classes=config.feature_dim, norm_layer=BatchNorm2d)
    if config.stem == "3x3":
        encoder.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
        encoder.maxpool = nn.Identity()
    else:
        encoder.maxpool = MaxPool()
    return encoder
