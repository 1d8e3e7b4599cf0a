"""The online network against equations (3) and (7), each of its switches, and the momentum twin."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tcc_fast.method.model import TCC, momentum_at, momentum_twin, update_twin
from tcc_fast.settings import LossConfig, ModelConfig
from tests import equations

B, K, D = 6, 4, 5


def network(encoder: nn.Module | None = None, gumbel_temperature: float = 0.3, **settings: object) -> TCC:
    """A float64 network whose encoder is the identity, so that views are f before normalisation."""
    torch.manual_seed(0)
    model = ModelConfig.model_validate({"num_clusters": K, "feature_dim": D} | settings)
    loss = LossConfig(gumbel_temperature=gumbel_temperature)
    return TCC(model, loss, nn.Identity() if encoder is None else encoder).double()


def random_view(seed: int = 0, batch: int = B) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, D)))


def random_noise(seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(100 + seed).gumbel(size=(B, K)))


def unit_rows(x: Tensor) -> np.ndarray:
    return np.array([equations.unit(row) for row in x.detach().numpy()])


def slow_instance(model: TCC, f: np.ndarray, c: np.ndarray) -> np.ndarray:
    """(7) with the model's NN."""
    nn_c = model.cluster_embedding
    return equations.instance_representation(f, c, nn_c.weight.detach().numpy(), nn_c.bias.detach().numpy())


@pytest.mark.parametrize("gumbel_temperature", [0.3, 1.0])
def test_outputs_are_equations_3_and_7(gumbel_temperature):
    model, view, noise = network(gumbel_temperature=gumbel_temperature), random_view(), random_noise()
    outputs = model(view, noise)
    f = unit_rows(view)
    pi = equations.assignment(f, unit_rows(model.prototypes))
    c = equations.gumbel_softmax(pi, noise.numpy(), gumbel_temperature)
    np.testing.assert_allclose(outputs.features.numpy(), f, rtol=1e-10)
    np.testing.assert_allclose(outputs.log_pi.exp().detach().numpy(), pi, rtol=1e-10)
    np.testing.assert_allclose(outputs.instance.detach().numpy(), slow_instance(model, f, c), rtol=1e-9)


def test_without_noise_c_is_pi():
    model, view = network(), random_view()
    f = unit_rows(view)
    pi = equations.assignment(f, unit_rows(model.prototypes))
    np.testing.assert_allclose(model(view).instance.detach().numpy(), slow_instance(model, f, pi), rtol=1e-9)


@pytest.mark.parametrize("normalize", [True, False])
def test_normalize_features(normalize):
    model, view = network(normalize_features=normalize), random_view()
    f = unit_rows(view) if normalize else view.numpy()
    outputs = model(view)
    np.testing.assert_allclose(outputs.features.numpy(), f, rtol=1e-10)
    pi = equations.assignment(f, unit_rows(model.prototypes))
    np.testing.assert_allclose(outputs.log_pi.exp().detach().numpy(), pi, rtol=1e-10)
    np.testing.assert_allclose(outputs.instance.norm(dim=1).detach().numpy(), 1.0, rtol=1e-12)


@pytest.mark.parametrize("normalize", [True, False])
def test_normalize_prototypes(normalize):
    model, view = network(normalize_prototypes=normalize, prototype_init="normal"), random_view()
    with torch.no_grad():
        model.prototypes.mul_(torch.tensor([0.5, 1.0, 2.0, 4.0]).unsqueeze(1))
    mu = unit_rows(model.prototypes) if normalize else model.prototypes.detach().numpy()
    pi = equations.assignment(unit_rows(view), mu)
    np.testing.assert_allclose(model(view).log_pi.exp().detach().numpy(), pi, rtol=1e-10)


def test_assignment_temperature():
    model, view = network(assignment_temperature=0.1), random_view()
    pi = equations.assignment(unit_rows(view), unit_rows(model.prototypes) / 0.1)
    np.testing.assert_allclose(model(view).log_pi.exp().detach().numpy(), pi, rtol=1e-9)


def test_with_unit_vectors_and_no_temperature_pi_stays_near_uniform():
    """What the setting's description says: π(k) lies within a factor e² of any other, whatever is learnt."""
    ratio = network()(random_view(batch=500)).log_pi.exp()
    assert (ratio.max(dim=1).values / ratio.min(dim=1).values).max() <= math.exp(2)


def test_feature_batch_norm_standardises_each_coordinate():
    model, view = network(feature_batch_norm=True, normalize_features=False), 5 + 3 * random_view(batch=64)
    f = model(view).features.numpy()
    mean, deviation = view.numpy().mean(axis=0), np.sqrt(view.numpy().var(axis=0) + 1e-5)
    np.testing.assert_allclose(f, (view.numpy() - mean) / deviation, rtol=1e-9, atol=1e-12)
    assert list(model.feature_norm.parameters()) == []  # no scale, no shift


def test_feature_batch_norm_comes_before_the_l2_norm():
    plain, normed = network(), network(feature_batch_norm=True)
    view = 5 + random_view(batch=64)  # almost constant: a large mean, a small spread
    f = normed(view).features
    np.testing.assert_allclose(f.norm(dim=1).numpy(), 1.0, rtol=1e-12)
    assert plain(view).features.mean(dim=0).norm() > 0.9
    assert f.mean(dim=0).norm() < 0.3


def test_feature_batch_norm_uses_running_statistics_in_evaluation():
    model = network(feature_batch_norm=True)
    for seed in range(5):
        model(2 + random_view(seed))
    model.eval()
    view = random_view(9)
    assert torch.equal(model(view).features[:1], model(view[:1]).features)


def test_condition_on_cluster_false_is_plain_f():
    model, view = network(condition_on_cluster=False), random_view()
    np.testing.assert_allclose(model(view, random_noise()).instance.numpy(), unit_rows(view), rtol=1e-10)


def test_condition_false_leaves_nn_out():
    model, view = network(), random_view()
    np.testing.assert_allclose(model(view, random_noise(), False).instance.numpy(), unit_rows(view), rtol=1e-10)
    assert not torch.allclose(model(view, random_noise(), True).instance, model(view, None, False).instance)


def test_prototype_init():
    def cosines(kind: str) -> np.ndarray:
        mu = network(prototype_init=kind).prototypes.detach()
        return (mu @ mu.T).numpy()

    off_diagonal = ~np.eye(K, dtype=bool)
    np.testing.assert_allclose(cosines("simplex")[off_diagonal], -1 / (K - 1), atol=1e-5)
    np.testing.assert_allclose(cosines("orthogonal"), np.eye(K), atol=1e-5)
    assert np.ptp(np.diag(cosines("normal"))) > 0.01  # neither unit norms


@pytest.mark.parametrize("normalize", [True, False])
def test_set_prototypes(normalize):
    model = network(normalize_prototypes=normalize)
    before = model.prototypes
    centres = 3 * torch.randn(K, D, generator=torch.Generator().manual_seed(0))
    model.set_prototypes(centres)
    expected = unit_rows(centres) if normalize else centres.numpy()
    np.testing.assert_allclose(model.prototypes.detach().numpy(), expected, rtol=1e-6)
    assert model.prototypes is before  # the optimiser holds this very tensor
    assert model.prototypes.requires_grad


def test_the_number_of_clusters_must_be_set():
    with pytest.raises(ValueError, match="model.num_clusters=10"):
        TCC(ModelConfig(), LossConfig())


def test_default_encoder_is_the_one_the_config_names():
    model = TCC(ModelConfig(num_clusters=3, feature_dim=16, backbone="resnet_small"), LossConfig())
    outputs = model(torch.randn(2, 3, 16, 16))
    assert outputs.features.shape == outputs.instance.shape == (2, 16)
    assert outputs.log_pi.shape == (2, 3)


def test_heads_keep_full_precision_under_autocast():
    model = network(nn.Linear(D, D)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(random_view().float(), random_noise().float())
    assert {part.dtype for part in outputs} == {torch.float32}
    np.testing.assert_allclose(outputs.log_pi.exp().sum(dim=1).detach().numpy(), 1.0, rtol=1e-6)


# ---- the momentum twin


def mlp_encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(D, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, D))


def test_twin_starts_as_a_copy_that_no_gradient_reaches():
    model = network(mlp_encoder())
    twin = momentum_twin(model)
    for (name, online), (twin_name, momentum) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert name == twin_name
        assert torch.equal(online, momentum)
        assert online.data_ptr() != momentum.data_ptr()
        assert online.requires_grad
        assert not momentum.requires_grad


def test_twin_is_in_training_mode_whatever_the_model_is_in():
    model = network(mlp_encoder()).eval()
    twin = momentum_twin(model)
    assert all(module.training for module in twin.modules())
    assert not model.training


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_parameters_follow_the_moving_average_exactly(decay):
    model = network(mlp_encoder())
    twin = momentum_twin(model)
    expected = {name: p.detach().numpy().copy() for name, p in twin.named_parameters()}
    for step in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        update_twin(twin, model, 1 - decay)
        for name, parameter in model.named_parameters():
            expected[name] = equations.moving_average(expected[name], parameter.detach().numpy(), decay)
        for name, parameter in twin.named_parameters():
            np.testing.assert_allclose(parameter.numpy(), expected[name], rtol=1e-12, atol=1e-14, err_msg=f"{step}")


def test_update_leaves_the_online_network_and_all_statistics_alone():
    model = network(mlp_encoder(), feature_batch_norm=True)
    twin = momentum_twin(model)
    model(3 + random_view())
    online = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = {name: value.clone() for name, value in twin.named_buffers()}
    update_twin(twin, model, 0.5)
    assert all(torch.equal(value, online[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, buffers[name]) for name, value in twin.named_buffers())


def test_batch_norm_statistics_of_the_twin_are_its_own():
    """Each network's statistics come from the views it saw itself, with torch's momentum of 0.1 from 0."""
    model = network(mlp_encoder(), feature_batch_norm=True)
    twin = momentum_twin(model)
    view, other = random_view(1), 4 + random_view(2)
    model(view)
    twin(other)
    update_twin(twin, model, 0.5)  # mixes equal weights, so both still hold the first layer that was used
    for owner, seen in ((model, view), (twin, other)):
        hidden = owner.encoder[0](seen).detach().numpy()
        np.testing.assert_allclose(owner.encoder[1].running_mean.numpy(), 0.1 * hidden.mean(axis=0), rtol=1e-10)


def test_momentum_at():
    assert [momentum_at(step, 0.999, warmup=False) for step in (0, 1, 10**6)] == [0.999] * 3
    warm = [momentum_at(step, 0.9, warmup=True) for step in (0, 10, 30, 79, 80, 81, 10**6)]
    assert warm == pytest.approx([1 / 2, 2 / 3, 4 / 5, 1 - 1 / 9.9, 0.9, 0.9, 0.9])
    rising = [momentum_at(step, 0.999, warmup=True) for step in range(12_000)]
    assert all(later >= earlier for earlier, later in itertools.pairwise(rising))
    assert rising[9_979] < 0.999
    assert rising[9_981] == 0.999
