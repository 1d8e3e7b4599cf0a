"""`TrainingStep` against Algorithm 1 in plain numpy, and what each switch of the method does to a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn

from tcc_fast.batch import Batch
from tcc_fast.bench.stepping import build_step
from tcc_fast.config import config_from_tree, load_config
from tcc_fast.draws import STREAM_GUMBEL, gumbel, keys, scalar_key
from tcc_fast.method.model import TCC, momentum_twin
from tcc_fast.method.step import Losses, TrainingStep, build_queues
from tcc_fast.precision import Precision
from tcc_fast.settings import Config
from tests import equations
from tests.conftest import TINY

B, K, D, INPUT, HIDDEN = 5, 3, 4, 2, 4
SEED = 11
LR = 0.3


@contextmanager
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps one state a process: hide what other tests left there, and give it back afterwards."""
    shared = (AcceleratorState._shared_state, PartialState._shared_state)
    found = [dict(state) for state in shared]
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    for state, before in zip(shared, found, strict=True):
        state.clear()
        state.update(before)


@pytest.fixture(scope="module")
def accelerator() -> Iterator[Accelerator]:
    with fresh_accelerate():
        yield Accelerator(cpu=True)


class NotingTCC(TCC):
    """Notes the noise that each forward pass is given."""

    def forward(self, view: Tensor, noise: Tensor | None = None, condition: bool = True) -> Any:
        self.__dict__.setdefault("noises", []).append(noise)
        return super().forward(view, noise, condition)


def config(**sections: dict[str, Any]) -> Config:
    """K = 3, L = 6 (two steps), J = 7 (no multiple of B = 5), and the given departures."""
    tree: dict[str, Any] = {
        "seed": SEED,
        "model": {"num_clusters": K, "feature_dim": D},
        "queue": {"cluster_multiple": 2, "instance_length": 7},
        "momentum": {"decay": 0.6},
    }
    for section, values in sections.items():
        tree[section] = tree.get(section, {}) | values
    return config_from_tree(tree)


def build(settings: Config, accelerator: Accelerator, start_step: int = 0, lr: float = LR) -> TrainingStep:
    """A float64 step on an MLP, with plain SGD."""
    torch.manual_seed(3)
    encoder = nn.Sequential(nn.Linear(INPUT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, D))
    model = NotingTCC(settings.model, settings.loss, encoder).double()
    twin = momentum_twin(model)
    prepared, optimizer = accelerator.prepare_model(model), torch.optim.SGD(model.parameters(), lr=lr)
    queues = build_queues(settings, K, torch.float64)
    return TrainingStep(settings, prepared, twin, queues, optimizer, accelerator, start_step)


def batch(seed: int, size: int = B, first_index: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(size, INPUT))
    view_1, view_2 = (torch.from_numpy(points + 0.1 * rng.normal(size=points.shape)) for _ in range(2))
    return Batch(view_1, view_2, torch.from_numpy(rng.permutation(size)) + first_index)


def noises_of(step: int, index: Tensor) -> list[np.ndarray]:
    """The draws of θ, θ̂, and of the mirrored direction, as float64."""
    bases = [scalar_key(STREAM_GUMBEL, SEED, step, stream) for stream in range(4)]
    return [gumbel(keys(base, index), K).double().numpy() for base in bases]


SYMBOLS = {
    "encoder.0.weight": "W1",
    "encoder.0.bias": "b1",
    "encoder.2.weight": "W2",
    "encoder.2.bias": "b2",
    "prototypes": "mu",
    "cluster_embedding.weight": "W",
    "cluster_embedding.bias": "b",
}


def symbols(network: nn.Module) -> dict[str, np.ndarray]:
    return {SYMBOLS[name]: p.detach().numpy().copy() for name, p in network.named_parameters()}


# Each case: departures of the config, and the same in the words of the transcription.
ALGORITHM_CASES: dict[str, tuple[dict[str, dict[str, Any]], dict[str, Any]]] = {
    "literal": ({}, {}),
    "every number another": (
        {
            "loss": {"alpha": 0.2, "temperature": 0.4, "temperature_cluster": 0.7, "gumbel_temperature": 0.8},
            "momentum": {"decay": 0.9},
        },
        {"alpha": 0.2, "tau": 0.4, "tau_cluster": 0.7, "lam": 0.8, "m": 0.9},
    ),
    "kl_weight": ({"loss": {"kl_weight": 0.1}}, {"kl_weight": 0.1}),
    "no gumbel": ({"loss": {"gumbel": False}}, {"gumbel": False}),
    "symmetric": ({"loss": {"symmetric": True}}, {"symmetric": True}),
    "no cluster track": ({"loss": {"cluster_track": False}}, {"cluster_track": False}),
    "no P": ({"queue": {"cluster": False}}, {"use_P": False}),
    "no NN(c)": ({"model": {"condition_on_cluster": False}}, {"condition_on_cluster": False}),
    "raw f": ({"model": {"normalize_features": False}}, {"normalize_features": False}),
    "raw mu": ({"model": {"normalize_prototypes": False}}, {"normalize_prototypes": False}),
    "additions": (
        {"model": {"feature_batch_norm": True, "assignment_temperature": 0.25}, "loss": {"temperature": 0.2}},
        {"feature_batch_norm": True, "assignment_temperature": 0.25, "tau": 0.2},
    ),
}


@pytest.mark.parametrize("case", ALGORITHM_CASES)
def test_training_step_is_algorithm_1(case, accelerator):
    """Four steps: P and Q fill, wrap (J is no multiple of B) and serve as negatives; θ̂ lags behind θ.

    Gradients are central differences of the transcribed loss, so no step of the derivation is shared. The order
    matters to the numbers: keys of the old θ̂, then the optimiser, then the moving average of the new θ.
    """
    departures, words = ALGORITHM_CASES[case]
    training_step = build(config(**departures), accelerator)
    words = {"m": 0.6} | words
    draws = words.pop("gumbel", True)
    plain = equations.Algorithm1(symbols(training_step.model), L=2 * K, J=7, lr=LR, **words)
    for step in range(4):
        data = batch(step, first_index=10 * step)
        losses = training_step(data, step)
        noises = noises_of(step, data.index) if draws else [None] * 4
        value = plain.step(data.view_1.numpy(), data.view_2.numpy(), noises)
        assert losses.loss.item() == pytest.approx(value, rel=1e-7), f"loss of step {step}"
        for name, expected in plain.theta.items():
            np.testing.assert_allclose(
                symbols(training_step.model)[name], expected, rtol=1e-6, atol=1e-7, err_msg=f"{name} of θ, step {step}"
            )
            np.testing.assert_allclose(
                symbols(training_step.twin)[name], plain.theta_hat[name], rtol=1e-6, atol=1e-7, err_msg=f"{name} of θ̂"
            )
        for queue, keys_, taken in (
            (training_step.queues.cluster, plain.P, plain.taken_by_P),
            (training_step.queues.instance, plain.Q, plain.taken_by_Q),
        ):
            np.testing.assert_allclose(queue.keys.numpy(), keys_, rtol=1e-6, atol=1e-7, err_msg=f"step {step}")
            assert queue.written.item() == taken


def test_the_keys_are_those_of_the_twin_before_its_update(accelerator):
    training_step = build(config(), accelerator)
    data = batch(0)
    training_step(batch(1), 0)  # so that θ̂ differs from θ
    twin_before = {name: p.clone() for name, p in training_step.twin.named_parameters()}
    _, expected = training_step.contrast(data, 1)
    training_step(data, 1)
    written = training_step.queues.cluster.keys[K : 2 * K]
    np.testing.assert_array_equal(written.numpy(), expected.cluster.numpy())
    assert any(not torch.equal(p, twin_before[name]) for name, p in training_step.twin.named_parameters())


def test_a_batch_larger_than_the_instance_queue(accelerator):
    training_step = build(config(), accelerator)
    data = batch(0, size=17)
    _, new_keys = training_step.contrast(data, 0)
    training_step(data, 0)
    held = {tuple(row) for row in training_step.queues.instance.keys.tolist()}
    assert held == {tuple(row) for row in new_keys.instance[-7:].tolist()}


# ---- gradients


def test_no_gradient_reaches_the_twin_or_the_queues(accelerator):
    training_step = build(config(loss={"symmetric": True}), accelerator)
    training_step(batch(0), 0)  # queues hold keys
    training_step.model.zero_grad(set_to_none=True)
    losses, new_keys = training_step.contrast(batch(1), 1)
    accelerator.backward(losses.loss)
    for name, parameter in training_step.twin.named_parameters():
        assert parameter.grad is None, name
        assert not parameter.requires_grad, name
    for queue in (training_step.queues.cluster, training_step.queues.instance):
        assert not queue.keys.requires_grad
        assert queue.keys.grad is None
    assert not any(key.requires_grad for key in new_keys)
    for name, parameter in training_step.model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_no_gradient_reaches_even_a_twin_that_asks_for_one(accelerator):
    training_step = build(config(), accelerator)
    training_step.twin.requires_grad_(True)
    losses, new_keys = training_step.contrast(batch(0), 0)
    losses.loss.backward()
    assert all(parameter.grad is None for parameter in training_step.twin.parameters())
    assert not any(key.requires_grad for key in new_keys)  # nor is a graph kept for one


def test_what_a_step_returns_holds_no_graph(accelerator):
    losses = build(config(), accelerator)(batch(0), 0)
    assert not any(part.requires_grad for part in losses)


# ---- what is reported


def test_reported_parts(accelerator):
    training_step = build(config(model={"assignment_temperature": 0.2}), accelerator)
    data = batch(0)
    training_step(batch(1), 0)
    losses, _ = training_step.contrast(data, 1)
    with torch.no_grad():
        pi = training_step.model(data.view_1).log_pi.exp().numpy()
    assert losses.kl_uniform.item() == pytest.approx(equations.kl_to_uniform(pi).mean(), rel=1e-9)
    assert losses.entropy.item() == pytest.approx(equations.entropy(pi).mean(), rel=1e-9)
    np.testing.assert_allclose(losses.mean_pi.detach().numpy(), pi.mean(axis=0), rtol=1e-9)
    assert losses.sizes.tolist() == np.bincount(pi.argmax(axis=1), minlength=K).tolist()
    l2 = losses.loss_instance + losses.kl_uniform
    assert losses.loss.item() == pytest.approx((0.5 * losses.loss_cluster + 0.5 * l2).item(), rel=1e-12)


def test_the_swapped_prediction_asks_for_the_twins_balanced_assignment_of_the_other_view(accelerator):
    settings = config(model={"assignment_temperature": 0.2}, loss={"swap_weight": 0.7, "swap_temperature": 0.05})
    training_step, data = build(settings, accelerator), batch(0)
    losses, _ = training_step.contrast(data, 0)
    with torch.no_grad():
        log_pi = training_step.model(data.view_1).log_pi.numpy()
        scores = training_step.twin(data.view_2).log_pi.numpy() * 0.2 / 0.05
    target = equations.balanced_assignment(scores)
    assert losses.loss_swap.item() == pytest.approx(-(target * log_pi).sum(axis=1).mean(), rel=1e-9)
    plain, _ = build(config(model={"assignment_temperature": 0.2}), accelerator).contrast(data, 0)
    assert plain.loss_swap == 0
    assert losses.loss.item() == pytest.approx((plain.loss + 0.7 * losses.loss_swap).item(), rel=1e-9)


def test_with_neighbours_the_swapped_prediction_asks_for_what_the_batchs_nearest_images_are_assigned(accelerator):
    settings = config(loss={"swap_weight": 0.7, "swap_temperature": 0.5, "swap_neighbours": 3})
    training_step, data = build(settings, accelerator), batch(0)
    losses, _ = training_step.contrast(data, 0)
    with torch.no_grad():
        log_pi = training_step.model(data.view_1).log_pi.numpy()
        twin = training_step.twin(data.view_2)
    means = equations.neighbours_mean(twin.log_pi.exp().numpy(), twin.features.numpy(), 3)
    target = equations.balanced_assignment(np.log(means) * 1 / 0.5)
    assert losses.loss_swap.item() == pytest.approx(-(target * log_pi).sum(axis=1).mean(), rel=1e-9)


# ---- noise


def noises(training_step: TrainingStep, data: Batch, step: int) -> list[Tensor]:
    """What the online network and the twin are given, in the order of the calls."""
    for network in (training_step.model, training_step.twin):
        network.__dict__["noises"] = []
    training_step.contrast(data, step)
    return [*training_step.model.noises, *training_step.twin.noises]


def test_every_network_direction_step_seed_and_image_draws_its_own_noise(accelerator):
    data = batch(0)
    drawn = []
    for seed in (0, 1):
        training_step = build(config(loss={"symmetric": True}).model_copy(update={"seed": seed}), accelerator)
        for step in (0, 1):
            drawn += noises(training_step, data, step)
    assert len(drawn) == 2 * 2 * 4
    everything = torch.stack(drawn).flatten().tolist()
    assert len(everything) == 16 * B * K
    assert len(set(everything)) == len(everything)


def test_the_draw_of_an_image_does_not_depend_on_its_batch(accelerator):
    training_step = build(config(), accelerator)
    data = batch(0, size=8)
    order = torch.tensor([6, 0, 3])
    part = Batch(data.view_1[order], data.view_2[order], data.index[order])
    for whole, selected in zip(noises(training_step, data, 4), noises(training_step, part, 4), strict=True):
        assert torch.equal(whole[order], selected)


def test_batch_order_changes_no_loss(accelerator):
    """Images carry their draws with them, and (4) is a set function."""
    training_step = build(config(loss={"symmetric": True}), accelerator)
    training_step(batch(1), 0)
    data = batch(0, size=16)
    order = torch.from_numpy(np.random.default_rng(0).permutation(16))
    shuffled = Batch(data.view_1[order], data.view_2[order], data.index[order])
    losses, keys_ = training_step.contrast(data, 1)
    again, keys_again = training_step.contrast(shuffled, 1)
    for name, one, other in zip(Losses._fields, losses, again, strict=True):
        np.testing.assert_allclose(other.detach().numpy(), one.detach().numpy(), rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(keys_again.cluster.numpy(), keys_.cluster.numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(keys_again.instance.numpy(), keys_.instance[order].numpy(), rtol=1e-12)


def test_nothing_is_drawn_where_no_draw_is_used(accelerator):
    assert noises(build(config(loss={"gumbel": False}), accelerator), batch(0), 0) == [None, None]
    assert noises(build(config(loss={"cluster_track": False}), accelerator), batch(0), 0) == [None, None]
    late = build(config(), accelerator, start_step=1)
    assert noises(late, batch(0), 0) == [None, None]
    assert all(isinstance(noise, Tensor) for noise in noises(late, batch(0), 1))


# ---- switches


def plain_contrast(training_step: TrainingStep, data: Batch) -> float:
    """-log p of (7) with e = f / ‖f‖, without anything that needs π."""
    with torch.no_grad():
        f = training_step.model.features(data.view_1).numpy()
        f_hat = training_step.twin.features(data.view_2).numpy()
    queue = training_step.queues.instance
    log_p = equations.instance_log_likelihood(
        f,
        f_hat,
        queue.keys.numpy(),
        training_step.config.loss.temperature,
        np.flatnonzero(queue.valid.numpy()).tolist(),
    )
    return -log_p.mean()


def test_cluster_track_false_is_plain_instance_contrast(accelerator):
    """Neither μ nor NN, neither α nor the weight of KL, has any part in it; P stays empty."""
    values = []
    for alpha, kl_weight in ((0.5, 1.0), (0.9, 3.0)):
        loss = {"cluster_track": False, "alpha": alpha, "kl_weight": kl_weight, "temperature": 0.3}
        training_step = build(config(loss=loss), accelerator)
        training_step(batch(0), 0)
        data = batch(1)
        losses, _ = training_step.contrast(data, 1)
        assert losses.loss.item() == pytest.approx(plain_contrast(training_step, data), rel=1e-10)
        assert losses.loss_cluster.item() == 0
        training_step.model.zero_grad(set_to_none=True)
        losses.loss.backward()
        for name in ("prototypes", "cluster_embedding.weight", "cluster_embedding.bias"):
            gradient = training_step.model.get_parameter(name).grad
            assert gradient is None or not gradient.any(), name
        assert training_step.queues.cluster.written.item() == 0
        assert training_step.queues.instance.written.item() == B
        values.append(losses.loss.item())
    assert values[0] == values[1]


def test_before_the_start_step_a_step_is_plain_instance_contrast(accelerator):
    training_step = build(config(loss={"temperature": 0.3}), accelerator, start_step=2)
    for step in range(4):
        data = batch(step)
        plain = plain_contrast(training_step, data)
        losses, _ = training_step.contrast(data, step)
        if step < 2:
            assert losses.loss.item() == pytest.approx(plain, rel=1e-10)
        else:
            assert losses.loss.item() != pytest.approx(plain, rel=1e-3)
        training_step(data, step)
        assert training_step.queues.cluster.written.item() == K * max(0, step - 1)
        assert training_step.queues.instance.written.item() == B * (step + 1)


def test_alpha_ramp(accelerator):
    constant = build(config(loss={"alpha": 0.4}), accelerator, start_step=5)
    assert [constant.alpha_at(step) for step in (0, 5, 100)] == [0.4] * 3
    ramp = build(config(loss={"alpha": 0.4, "alpha_ramp_steps": 4}), accelerator)
    assert [ramp.alpha_at(step) for step in (0, 1, 2, 3, 4, 100)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])
    late = build(config(loss={"alpha": 0.4, "alpha_ramp_steps": 4}), accelerator, start_step=5)
    assert [late.alpha_at(step) for step in (5, 7, 9, 50)] == pytest.approx([0, 0.2, 0.4, 0.4])


def test_alpha_ramp_enters_the_loss(accelerator):
    training_step = build(config(loss={"alpha": 0.8, "alpha_ramp_steps": 4}), accelerator)
    training_step(batch(0), 0)
    for step, alpha in ((0, 0.0), (2, 0.4), (4, 0.8)):
        losses, _ = training_step.contrast(batch(1), step)
        l2 = losses.loss_instance + losses.kl_uniform
        assert losses.loss.item() == pytest.approx((alpha * losses.loss_cluster + (1 - alpha) * l2).item(), rel=1e-12)


@pytest.mark.parametrize(("warmup", "step", "share"), [(True, 0, 1 / 2), (True, 30, 1 / 5), (False, 0, 0.001)])
def test_momentum_warm_up_enters_the_update(warmup, step, share, accelerator):
    """1 - m: with warm-up, θ̂ goes half of the way to θ at step 0 and a fifth at step 30; without, 0.001."""
    training_step = build(config(momentum={"decay": 0.999, "warmup": warmup}), accelerator)
    start = training_step.twin.encoder[0].weight.clone()
    training_step(batch(0), step)
    end = training_step.model.encoder[0].weight.detach()
    moved = training_step.twin.encoder[0].weight - start
    np.testing.assert_allclose(moved.numpy(), share * (end - start).numpy(), rtol=1e-9, atol=1e-15)


def test_symmetric_is_the_mean_of_both_directions_and_keeps_one_key_an_image(accelerator):
    data = batch(0)
    both = build(config(loss={"symmetric": True, "gumbel": False}), accelerator)
    one_way = build(config(loss={"gumbel": False}), accelerator)
    losses, new_keys = both.contrast(data, 0)
    forwards, keys_forwards = one_way.contrast(data, 0)
    backwards, _ = one_way.contrast(Batch(data.view_2, data.view_1, data.index), 0)
    for name, mean, a, b in zip(Losses._fields, losses, forwards, backwards, strict=True):
        np.testing.assert_allclose(mean.detach().numpy(), ((a + b) / 2).detach().numpy(), rtol=1e-12, err_msg=name)
    assert torch.equal(new_keys.instance, keys_forwards.instance)
    both(data, 0)
    assert both.queues.instance.written.item() == B
    assert both.queues.cluster.written.item() == K


def test_temperature_cluster_is_for_equation_5_alone(accelerator):
    def parts(**loss: Any) -> Losses:
        training_step = build(config(loss=loss), accelerator, lr=0.0)
        training_step(batch(0), 0)
        return training_step.contrast(batch(1), 1)[0]

    shared, own = parts(temperature=0.5), parts(temperature=0.5, temperature_cluster=0.2)
    assert own.loss_instance.item() == shared.loss_instance.item()
    assert own.loss_cluster.item() != pytest.approx(shared.loss_cluster.item(), rel=1e-3)
    same = parts(temperature=0.9, temperature_cluster=0.5)
    assert same.loss_cluster.item() == pytest.approx(shared.loss_cluster.item(), rel=1e-12)


def test_queue_cluster_false_never_reads_p(accelerator):
    training_step = build(config(queue={"cluster": False}), accelerator)
    training_step(batch(0), 0)
    before, _ = training_step.contrast(batch(1), 1)
    training_step.queues.cluster.keys.normal_()
    after, _ = training_step.contrast(batch(1), 1)
    assert before.loss_cluster.item() == after.loss_cluster.item() > 0


def test_kl_weight_zero_leaves_the_prior_out(accelerator):
    def loss_and_prior(kl_weight: float) -> tuple[float, float]:
        training_step = build(config(loss={"kl_weight": kl_weight, "alpha": 0.0}), accelerator)
        losses, _ = training_step.contrast(batch(0), 0)
        return losses.loss.item(), losses.kl_uniform.item()

    without, prior = loss_and_prior(0.0)
    assert prior > 0
    for weight in (0.5, 1.0):
        assert loss_and_prior(weight)[0] == pytest.approx(without + weight * prior, rel=1e-10)


def test_first_step_has_no_negatives(accelerator):
    """Empty queues: (5) and -log p are 0, and what is left of (9) is the prior."""
    losses, _ = build(config(), accelerator).contrast(batch(0), 0)
    assert losses.loss_cluster.item() == losses.loss_instance.item() == 0
    assert losses.loss.item() == pytest.approx(0.5 * losses.kl_uniform.item(), rel=1e-12)


def test_queue_lengths():
    queues = build_queues(config(queue={"cluster_multiple": 20, "instance_length": 77}), K)
    assert queues.cluster.keys.shape == (20 * K, D)
    assert queues.instance.keys.shape == (77, D)
    assert queues.cluster.keys.dtype == torch.float32


def test_uniform_assignment_has_no_kl_and_full_entropy(accelerator):
    """One prototype for all clusters: π is uniform, KL is 0, H = log K."""
    training_step = build(config(), accelerator)
    with torch.no_grad():
        training_step.model.prototypes.copy_(training_step.model.prototypes[:1].expand(K, -1))
    losses, _ = training_step.contrast(batch(0), 0)
    assert losses.kl_uniform.item() == pytest.approx(0.0, abs=1e-12)
    assert losses.entropy.item() == pytest.approx(math.log(K), rel=1e-12)


def test_the_momentum_forward_keeps_nothing_for_a_backward_pass(accelerator):
    training_step, data, kept = build(config(), accelerator), batch(0), []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        training_step.momentum(data.view_2, None, True)
        assert not kept
        training_step.online(data.view_1, None, True)
        assert kept


@pytest.mark.parametrize("precision", Precision)
def test_both_encoders_run_in_the_precision_of_the_run_and_what_follows_in_full(precision: Precision) -> None:
    settings = load_config("digits", [*TINY, "model.num_clusters=3", "loss.symmetric=false"])
    step = build_step(settings, torch.device("cpu"), precision, "off")
    seen: list[torch.dtype] = []
    for network in (step.model, step.twin):
        network.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    views = torch.randn(8, 3, 8, 8)
    online, momentum = step.online(views, None, True), step.momentum(views, None, True)
    assert seen == [precision.dtype, precision.dtype]
    assert {part.dtype for part in (*online, *momentum)} == {torch.float32}
    assert not any(part.requires_grad for part in momentum)
