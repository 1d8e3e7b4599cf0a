"""Which parameters decay, and what the learning rate is at each step."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from tcc_fast.method.model import TCC
from tcc_fast.method.optim import build_optimizer, learning_rate, set_learning_rate
from tcc_fast.settings import LossConfig, ModelConfig, OptimConfig


def model() -> TCC:
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8)
    )
    return TCC(ModelConfig(num_clusters=3, feature_dim=8), LossConfig(), encoder)


def names_of(network: nn.Module, group: dict) -> set[str]:
    wanted = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in network.named_parameters() if id(parameter) in wanted}


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_matrices_and_convolutions_decay_and_nothing_else(name):
    network = model()
    optimizer = build_optimizer(network, OptimConfig(name=name, weight_decay=0.1))
    decayed, kept = optimizer.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert names_of(network, decayed) == {"encoder.0.weight", "encoder.4.weight", "cluster_embedding.weight"}
    assert names_of(network, kept) == {
        "prototypes",
        "encoder.0.bias",
        "encoder.1.weight",
        "encoder.1.bias",
        "encoder.4.bias",
        "cluster_embedding.bias",
    }


def test_prototypes_keep_out_of_decay_inside_a_wrapper():
    """DistributedDataParallel prefixes every name."""
    wrapped = nn.ModuleDict({"module": model()})
    decayed, kept = build_optimizer(wrapped, OptimConfig(weight_decay=0.1)).param_groups
    assert "module.prototypes" in names_of(wrapped, kept)
    assert len(names_of(wrapped, decayed)) == 3


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_names(name, kind):
    optimizer = build_optimizer(model(), OptimConfig(name=name, lr=0.25, sgd_momentum=0.7))
    assert type(optimizer).__name__ == kind
    assert all(group["lr"] == 0.25 for group in optimizer.param_groups)
    if name == "sgd":
        assert all(group["momentum"] == 0.7 for group in optimizer.param_groups)


@pytest.mark.parametrize(("name", "expected"), [("sgd", 1 - 0.5 * 0.1), ("adamw", 1 - 0.5 * 0.1), ("adam", 0.5)])
def test_decay_is_coupled_for_adam_and_sgd_and_decoupled_for_adamw(name, expected):
    """One step from weight 1 with gradient 0, lr 0.5, decay 0.1: Adam turns L2 into a full step of lr."""
    network = nn.Linear(1, 1)
    nn.init.ones_(network.weight)
    nn.init.ones_(network.bias)
    optimizer = build_optimizer(network, OptimConfig(name=name, lr=0.5, weight_decay=0.1))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert network.weight.item() == pytest.approx(expected, rel=1e-5)
    assert network.bias.item() == 1.0


def test_sgd_step_with_momentum():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    optimizer = build_optimizer(network, OptimConfig(name="sgd", lr=0.1, sgd_momentum=0.5))
    for _ in range(2):
        network.weight.grad = torch.ones_like(network.weight)
        optimizer.step()
    assert network.weight.item() == pytest.approx(-0.1 - 0.1 * 1.5)


def test_warm_up_is_linear_and_ends_at_the_peak():
    config = OptimConfig(lr=0.4, schedule="constant", warmup_steps=4)
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4] + [0.4] * 6)


def test_cosine_falls_from_the_peak_to_nearly_zero():
    config = OptimConfig(lr=2.0, schedule="cosine", warmup_steps=10)
    assert learning_rate(config, 10, 110) == pytest.approx(2.0)
    assert learning_rate(config, 35, 110) == pytest.approx(1 + math.cos(math.pi / 4))
    assert learning_rate(config, 60, 110) == pytest.approx(1.0)
    assert learning_rate(config, 110, 110) == pytest.approx(0.0, abs=1e-12)
    rates = [learning_rate(config, step, 110) for step in range(10, 110)]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))


def test_steps_fall_tenfold_at_each_milestone():
    config = OptimConfig(lr=1.0, schedule="steps", milestones=(0.5, 0.75))
    rates = [learning_rate(config, step, 100) for step in (0, 49, 50, 74, 75, 99)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_milestones_are_parts_of_the_whole_run_its_warm_up_included():
    config = OptimConfig(lr=1.0, schedule="steps", milestones=(0.5,), warmup_steps=20)
    assert [learning_rate(config, step, 100) for step in (19, 49, 50)] == pytest.approx([1.0, 1.0, 0.1])


def test_constant_without_warm_up():
    config = OptimConfig(lr=0.3, schedule="constant")
    assert {learning_rate(config, step, 5) for step in range(5)} == {0.3}


@pytest.mark.parametrize("schedule", ["constant", "cosine", "steps"])
def test_a_run_shorter_than_its_warm_up(schedule):
    config = OptimConfig(lr=1.0, schedule=schedule, warmup_steps=10)
    assert [learning_rate(config, step, 3) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_set_learning_rate_reaches_every_group():
    optimizer = build_optimizer(model(), OptimConfig())
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_optimiser_of_a_compiled_step_moves_as_the_plain_one_does(name):
    """Parameters that join late, and one that is begun anew, as μ is at the k-means start, must not trouble it."""
    networks = [model(), model()]
    networks[1].load_state_dict(networks[0].state_dict())
    config = OptimConfig(name=name, lr=0.1, weight_decay=0.01)
    optimizers = [build_optimizer(networks[0], config), build_optimizer(networks[1], config, compiled=True)]
    assert isinstance(optimizers[1].param_groups[0]["lr"], torch.Tensor)
    for step in range(4):
        for network, optimizer in zip(networks, optimizers, strict=True):
            generator = torch.Generator().manual_seed(step)
            for key, parameter in network.named_parameters():
                gradient = torch.randn(parameter.shape, generator=generator)
                parameter.grad = gradient if step or "prototypes" not in key else None
            if step == 2:
                optimizer.state.pop(network.prototypes)
            set_learning_rate(optimizer, 0.1 / (step + 1))
            optimizer.step()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
