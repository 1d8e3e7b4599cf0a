"""Backbones and stems."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcc_fast.method.encoder import build_encoder
from tcc_fast.settings import BACKBONES, ModelConfig


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("stem", ["3x3", "7x7"])
def test_every_backbone_maps_views_to_features(backbone: str, stem: str) -> None:
    config = ModelConfig(backbone=backbone, stem=stem, feature_dim=24)  # type: ignore[arg-type]
    encoder = build_encoder(config)
    assert encoder(torch.randn(2, 3, 32, 32)).shape == (2, 24)


@pytest.mark.parametrize("width", [16, 24])
def test_the_small_one_is_as_wide_as_asked(width: int) -> None:
    encoder = build_encoder(ModelConfig(backbone="resnet_small", width=width, feature_dim=5))
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    widths = [module.out_channels // width for module in convolutions]
    assert widths == [1, 1, 1, 2, 2, 2, 4, 4, 4]  # the stem; two of each stage and, where it widens, a shortcut
    assert all(module.out_channels % width == 0 for module in convolutions)
    assert encoder(torch.randn(2, 3, 12, 12)).shape == (2, 5)


@pytest.mark.parametrize("stem", ["3x3", "7x7"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet_small"])
def test_convolutions_begin_as_he_et_al_have_it(backbone: str, stem: str) -> None:
    """Normal, with the variance 2 / fan-out that torchvision's ResNets have, in the stems that are ours, too."""
    torch.manual_seed(0)
    width = 64 if backbone == "resnet_small" else 16
    encoder = build_encoder(ModelConfig(backbone=backbone, stem=stem, width=width))  # type: ignore[arg-type]
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            wanted = (2 / fan_out) ** 0.5
            spread = 4 / (2 * module.weight.numel()) ** 0.5  # four standard errors
            assert module.weight.std().item() == pytest.approx(wanted, rel=spread)
            assert (module.weight.abs() > 2 * wanted).float().mean() > 0.02  # no uniform draw has such tails


@pytest.mark.parametrize("backbone", ["resnet18", "resnet_small"])
def test_the_small_stem_keeps_full_resolution_and_the_large_one_a_quarter(backbone: str) -> None:
    def first_stage_size(stem: str) -> int:
        encoder = build_encoder(ModelConfig(backbone=backbone, stem=stem))  # type: ignore[arg-type]
        stage = encoder.layer1 if backbone == "resnet18" else encoder.stages[0]
        seen = []
        stage.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[-1]))  # type: ignore[union-attr]
        encoder(torch.randn(2, 3, 64, 64))
        return seen[0]

    assert (first_stage_size("3x3"), first_stage_size("7x7")) == (64, 16)
