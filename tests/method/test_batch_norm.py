"""`GlobalBatchNorm` in one process is torch's batch norm; several processes are in test_ranks.py."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tcc_fast.method.batch_norm import BatchNorm2d, GlobalBatchNorm, share_batch_statistics


def networks(affine: bool, tracked: bool) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, affine=affine, track_running_stats=tracked)
    plain = nn.Sequential(nn.Conv2d(3, 5, 3), norm, nn.Flatten(), nn.BatchNorm1d(180)).double()
    return plain, share_batch_statistics(copy.deepcopy(plain))


def test_a_batch_norm_that_would_have_to_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"momentum=None .*give it a momentum, or set model\.sync_batch_norm=false"):
        share_batch_statistics(nn.Sequential(nn.BatchNorm2d(3, momentum=None)))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_it_normalises_tracks_and_differentiates_as_torch_does(affine: bool, tracked: bool) -> None:
    plain, shared = networks(affine, tracked)
    assert isinstance(shared[1], GlobalBatchNorm)
    assert isinstance(shared[3], GlobalBatchNorm)
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in shared.named_parameters()]
    for seed in range(3):
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for network in (plain, shared):
            network.zero_grad()
            network(images).square().sin().sum().backward()
        for one, other in zip(plain.parameters(), shared.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-9)
    assert list(plain.state_dict()) == list(shared.state_dict())
    for name, tensor in plain.state_dict().items():
        if "num_batches" in name:  # ours does not count
            continue
        torch.testing.assert_close(shared.state_dict()[name], tensor, msg=name)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(plain.eval()(images), shared.eval()(images))


@pytest.mark.parametrize("affine", [True, False])
def test_without_the_count_it_is_torchs_own(affine: bool) -> None:
    counted, ours = nn.BatchNorm2d(3, affine=affine), BatchNorm2d(3, affine=affine)
    images = [torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    for batch in images:
        assert torch.equal(counted(batch), ours(batch))
    assert ours.num_batches_tracked == 0
    state = counted.state_dict()
    assert list(state) == list(ours.state_dict())
    ours.load_state_dict(state)
    assert torch.equal(counted.eval()(images[0]), ours.eval()(images[0]))


def test_bf16_keeps_its_statistics_in_full_precision() -> None:
    layer = GlobalBatchNorm(5)
    reference = nn.BatchNorm2d(5)
    images = 3 + torch.randn(8, 5, 6, 6, generator=torch.Generator().manual_seed(1))
    found, wanted = layer(images.bfloat16()), reference(images.bfloat16().float())
    assert found.dtype == torch.bfloat16
    assert layer.running_mean is not None
    torch.testing.assert_close(layer.running_mean, reference.running_mean)
    torch.testing.assert_close(layer.running_var, reference.running_var)
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=0.02)
