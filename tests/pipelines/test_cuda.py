"""The kernels that finish views on a GPU: interpreted, they make the views of `finish`; and they compile for GPUs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tcc_fast.settings import AugmentConfig
from tcc_fast.views.augment import finish
from tcc_fast.views.resample import blur_kernel_size
from tcc_fast.views.view_parameters import ViewParameters, draw
from tests.absent_gpu import CAPABILITIES, Kernels
from tests.interpreted import interpret
from tests.pipelines.whole_views import settings

triton = pytest.importorskip("triton", reason="torch was built without Triton")

from tcc_fast.pipelines.cuda import finish as finish_module  # noqa: E402
from tcc_fast.pipelines.cuda.blur import tiling  # noqa: E402

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
TOLERANCE = 2e-5
"""Rounding of single precision, in standard deviations of the data set."""
STRONG: dict[str, Any] = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.3}
EVERYTHING = AugmentConfig(jitter=0.8, grey=0.3, blur=0.5, **STRONG)
NO_BLUR = EVERYTHING.model_copy(update={"blur": 0.0})
HALF, SINGLE = (torch.float16, torch.float16), (torch.float32, torch.float32)


@dataclass(frozen=True)
class Case:
    """What is made of what."""

    recipe: AugmentConfig
    levels: Tensor
    parameters: ViewParameters
    dtypes: tuple[torch.dtype, torch.dtype] = SINGLE

    def arguments(self) -> tuple[tuple[Any, ...], tuple[Tensor, Tensor]]:
        settings = (self.recipe, self.levels.shape[-1], MEAN, STD, *self.dtypes)
        return settings, (self.levels, self.parameters.pack().float())

    def wanted(self) -> Tensor:
        """By the reference, in single precision."""
        return finish(self.levels.flatten(0, 1).float(), self.parameters, self.recipe, MEAN, STD)


def parameters_of(recipe: AugmentConfig, count: int) -> ViewParameters:
    """Not all alike in any way."""
    side = torch.full((count,), 40)
    return draw(recipe, torch.arange(count), side, side)


def images(views: int, count: int, size: int) -> Tensor:
    """(V, B, 3, S, S) in 0..255; the first has pixels of full colours, the last is grey. In memory a row's channels are
    beside each other, as `place` leaves them."""
    levels = 255 * torch.rand(count, views, size, 3, size, generator=torch.Generator().manual_seed(size))
    levels[0] = 255 * (levels[0] > 127)
    levels[-1] = levels[-1, :, :, :1]
    return levels.permute(1, 0, 3, 2, 4)


def crops() -> Tensor:
    """As FFCV and DALI give them: whole levels, a pixel's channels beside each other."""
    pixels = images(1, 10, 14)[0].round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return pixels.permute(0, 3, 1, 2).unsqueeze(0)


def of_wide_blur(size: int) -> Case:
    recipe = AugmentConfig(jitter=0, grey=0, blur=1)
    return Case(recipe, images(1, 1, size), replace(parameters_of(recipe, 1), sigma=torch.tensor([9.0])))


def of_every_order() -> Case:
    recipe = AugmentConfig(jitter=1, grey=0, blur=0, **STRONG)
    orders = torch.tensor(list(itertools.permutations(range(4))))
    return Case(recipe, images(1, 24, 12), replace(parameters_of(recipe, 24), order=orders))


def without(part: str) -> Case:
    recipe = EVERYTHING.model_copy(update={part: 0.0})
    return Case(recipe, images(1, 10, 14), parameters_of(recipe, 10))


CASES = {
    **{f"{size} px": Case(EVERYTHING, images(2, 12, size), parameters_of(EVERYTHING, 24)) for size in (5, 16, 33, 50)},
    **{f"wide blurs, {size} px": of_wide_blur(size) for size in (180, 340)},
    "every order of the jitter": of_every_order(),
    **{f"without {part}": without(part) for part in (*STRONG, "jitter", "grey", "blur")},
    "crops": Case(EVERYTHING, crops(), parameters_of(EVERYTHING, 10)),
}
IN_HALF = Case(EVERYTHING, images(2, 12, 33).half(), parameters_of(EVERYTHING, 24), HALF)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """By the kernels, of all cases."""
    cases = {**CASES, "half": IN_HALF}
    given = {name: (finish_module.__name__, "Finish", list(case.arguments())) for name, case in cases.items()}
    return interpret(given, tmp_path_factory.mktemp("interpreted"))


@pytest.mark.parametrize("name", CASES)
def test_kernels_make_the_views_of_the_reference(made: dict[str, Tensor], name: str) -> None:
    wanted = CASES[name].wanted()
    torch.testing.assert_close(made[name], wanted, rtol=0, atol=TOLERANCE)
    assert made[name].stride() == wanted.stride()


def test_16_bits_are_off_by_less_than_half_a_level(made: dict[str, Tensor]) -> None:
    """Views in fp16, which hold more than those in bf16 do."""
    assert made["half"].dtype == torch.float16
    off = 255 * STD.view(3, 1, 1) * (made["half"].float() - IN_HALF.wanted()).abs()
    assert 1e-4 < float(off.max()) < 0.5


AFFINE: dict[str, Any] = {"rotation": 20.0, "shear": 10.0, "zoom": (0.8, 1.2)}


def test_whole_views_are_those_of_plain_tensor_work(tmp_path: Path) -> None:
    """From images to views: what places pixels hands over what the kernels take, with and without an affine map."""
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(256, (12, 28, 36, 3), generator=generator, dtype=torch.uint8)
    stored[3], stored[4], stored[5] = 255, 0, stored[5][..., :1]
    sizes = torch.randint(15, 60, (12, 2), generator=generator)
    where = (stored, sizes, torch.tensor([7, 3, 4, 5, 0, 11, 3]))
    module, calls, wanted = "tests.pipelines.whole_views", {}, {}
    for name, recipe in {"plain": EVERYTHING, "affine": EVERYTHING.model_copy(update=AFFINE)}.items():
        wanted[name] = torch.cat(settings(recipe, torch.float32).views_of_stored(*where, (11, 22)))
        for dtype in (torch.float32, torch.float16):
            calls[f"{name} {dtype}"] = (module, "whole_views", [(settings(recipe, dtype), *where)])
    for name, found in interpret(calls, tmp_path).items():
        off = 255 * STD.view(3, 1, 1) * (found.float() - wanted[name.split()[0]]).abs()
        assert off.max() < (0.5 if "float16" in name else 0.005)
        assert found.stride() == wanted[name.split()[0]].stride()


def test_the_cases_ask_for_everything() -> None:
    """Views with and without each part, and another result where the order of the jitter is another."""
    parameters = CASES["33 px"].parameters
    for part in (parameters.jitter, parameters.grey, parameters.blur, parameters.blur & parameters.jitter):
        assert 0 < int(part.sum()) < len(part)
    case = CASES["every order of the jitter"]
    turned = replace(case, parameters=replace(case.parameters, order=case.parameters.order.flip(1)))
    assert (turned.wanted() - case.wanted()).abs().amax(dim=(1, 2, 3)).min() > 100 * TOLERANCE


def test_every_blur_reads_what_it_needs() -> None:
    tilings = set()
    for size in range(3, finish_module.LARGEST + 1):
        half = blur_kernel_size(size) // 2
        tile, window = tiling(half)
        assert tile + 2 * half <= window
        tilings.add((tile, window))
    tested = {tiling(blur_kernel_size(case.levels.shape[-1]) // 2) for case in CASES.values()}
    assert tested == tilings


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("size", [32, 224, 499])
@pytest.mark.parametrize("dtypes", [HALF, SINGLE], ids=["16 bits", "32 bits"])
def test_kernels_compile_for_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: int, size: int, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    if dtypes == HALF and capability >= 80:
        dtypes = (torch.float16, torch.bfloat16)
    monkeypatch.setattr(finish_module, "FEW", 0 if size == 224 else 1000)
    launched = Kernels(finish_module, ["change_colours", "blur"], capability, monkeypatch, tmp_path)
    placed = torch.empty(2, 2, size, 3, size, dtype=dtypes[0]).permute(1, 0, 3, 2, 4)
    cut = torch.empty(1, 4, size, size, 3, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
    for recipe, levels in ((EVERYTHING, placed), (EVERYTHING, cut), (NO_BLUR, placed)):
        maker = finish_module.Finish(recipe, size, MEAN, STD, *dtypes)
        maker(levels, parameters_of(recipe, 4).pack().float())
    launched.check(5)
