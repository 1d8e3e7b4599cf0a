"""The compiled pass for CPUs: draws like `tcc_fast.draws`, makes what `tcc_fast.views.augment` and torchvision make."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from tcc_fast import views
from tcc_fast.draws import keys, scalar_key
from tcc_fast.pipelines.cpu import compile as compiling
from tcc_fast.pipelines.cpu import draw as drawing
from tcc_fast.pipelines.cpu.buffers import KEPT, Buffers
from tcc_fast.pipelines.cpu.maker import CpuViews
from tcc_fast.pipelines.cpu.threads import Threads
from tcc_fast.pipelines.cpu.views import decoded_views, make_plan
from tcc_fast.pipelines.view_maker import TensorViews, view_maker
from tcc_fast.settings import AugmentConfig
from tcc_fast.views import resample
from tcc_fast.views.augment import apply, finish
from tcc_fast.views.numbers import BLUR, GREY, JITTER, NUM_PARAMETERS
from tcc_fast.views.view_parameters import ViewParameters, draw

TOLERANCE = 1e-5
"""Rounding of single precision, pixels in 0..1."""
COLOUR_TOLERANCE = 0.01 / 255
IMPORTED_VIEWS = re.compile(r"^from tcc_fast\.views\.(\w+) import", re.MULTILINE)
ZERO, ONE = torch.zeros(3), torch.ones(3)
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])

NOTHING: dict[str, Any] = {"flip": 0, "jitter": 0, "grey": 0, "blur": 0}
EVERYTHING = AugmentConfig(
    rotation=20,
    shear=10,
    zoom=(0.8, 1.1),
    flip=0.4,
    jitter=0.8,
    brightness=0.4,
    contrast=0.3,
    saturation=0.5,
    hue=0.2,
    grey=0.3,
    blur=0.6,
)
ALONE: dict[str, dict[str, Any]] = {
    "crop": {},
    "flip": {"flip": 1},
    "rotation": {"rotation": 180},
    "shear": {"shear": 40},
    "zoom": {"zoom": (0.5, 1.5)},
    "brightness": {"jitter": 1, "contrast": 0, "saturation": 0, "hue": 0},
    "contrast": {"jitter": 1, "brightness": 0, "saturation": 0, "hue": 0},
    "saturation": {"jitter": 1, "brightness": 0, "contrast": 0, "hue": 0},
    "hue": {"jitter": 1, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0.5},
    "jitter without contrast": {"jitter": 1, "brightness": 1, "contrast": 0, "saturation": 1, "hue": 0.5},
    "jitter": {"jitter": 1, "brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5},
    "grey": {"grey": 1},
    "blur": {"blur": 1},
}
RECIPES = {name: AugmentConfig(**(NOTHING | changes)) for name, changes in ALONE.items()} | {"all": EVERYTHING}
ONE_PIXEL: dict[str, Any] = {"crop_area": (1e-4, 4e-4)}
"""Of images of 64 x 64: 0.4 to 1.6 pixels."""


def images(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """(count, height, width, 3) uint8: noise, light, and the corners of the colour cube, in turn."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (count, 3, height, width), generator=generator).to(torch.uint8)
    small = torch.randint(0, 256, (count, 3, 3, 3), generator=generator).float()
    light = reference.resize(small, [height, width], antialias=True).round().to(torch.uint8)
    corners = (noise > 127).to(torch.uint8) * 255
    kind = (torch.arange(count) % 3).view(-1, 1, 1, 1)
    chosen = torch.where(kind == 0, noise, torch.where(kind == 1, light, corners))
    return chosen.permute(0, 2, 3, 1).contiguous()


def bases(seed: int = 0) -> tuple[int, int]:
    return scalar_key(seed, 1), scalar_key(seed, 2)


def close_after(maker: Any, use: Callable[[Any], Any]) -> Any:
    try:
        return use(maker)
    finally:
        maker.close()


def stored(
    recipe: AugmentConfig, source: Tensor, sizes: Tensor, size: int, mean: Tensor = ZERO, std: Tensor = ONE
) -> tuple[Tensor, Tensor]:
    """Both views of all images."""
    maker = CpuViews(recipe, size, mean, std, threads=2)
    return close_after(maker, lambda maker: maker.views_of_stored(source, sizes, torch.arange(len(source)), bases()))


def expected(
    recipe: AugmentConfig, source: Tensor, sizes: Tensor, size: int, mean: Tensor = ZERO, std: Tensor = ONE
) -> list[Tensor]:
    """By `tcc_fast.views.augment`."""
    parameters = [parameters_of(recipe, sizes, view) for view in (1, 2)]
    geometry = sizes[:, 0], sizes[:, 1]
    return [apply(source.permute(0, 3, 1, 2), p, recipe, size, mean, std, geometry) for p in parameters]


def parameters_of(recipe: AugmentConfig, sizes: Tensor, view: int) -> ViewParameters:
    return draw(recipe, keys(bases()[view - 1], torch.arange(len(sizes))), *sizes.unbind(1))


def all_of_size(count: int, height: int, width: int) -> Tensor:
    return torch.tensor([height, width]).expand(count, 2).contiguous()


# Draws.


def test_keys_are_those_of_the_reference() -> None:
    index = torch.cat([torch.arange(1000), torch.tensor([2**31, 2**40 + 3, 2**62])])
    for base in (0, 1, -1, scalar_key(2, 3), scalar_key(2, 4), 2**63 - 1, -(2**63)):
        found = [drawing.key_of(np.int64(base), np.int64(i)) for i in index.tolist()]
        assert np.array(found, dtype=np.uint64).view(np.int64).tolist() == keys(base, index).tolist()


@pytest.mark.parametrize("name", ["default", "all", "small crops", "long crops"])
@pytest.mark.parametrize("size", [(96, 96), (64, 20), (480, 640), (7, 9), (1, 1), "any"], ids=str)
def test_parameters_are_those_of_the_reference_bit_by_bit(name: str, size: Any) -> None:
    """20 000 keys. (With images of thousands of pixels one crop in 100 000 is a pixel larger or smaller: torch's
    exponential and numba's differ in the last bit.)"""
    recipe = {
        "default": AugmentConfig(),
        "all": EVERYTHING,
        "small crops": AugmentConfig(crop_area=(0.01, 0.1)),
        "long crops": AugmentConfig(crop_aspect=(0.2, 6), crop_area=(0.5, 1)),
    }[name]
    count = 20_000
    generator = torch.Generator().manual_seed(1)
    sizes = torch.randint(1, 400, (count, 2), generator=generator) if size == "any" else all_of_size(count, *size)
    key = keys(scalar_key(9), torch.arange(count))
    row = drawing.recipe_row(recipe)
    found = np.full((count, NUM_PARAMETERS), np.nan)
    sides = sizes.double().numpy()
    for i, one in enumerate(key.numpy().view(np.uint64)):
        drawing.draw_view(one, sides[i, 0], sides[i, 1], row, found[i])
    wanted = draw(recipe, key, *sizes.unbind(1)).pack().numpy()
    differing = np.flatnonzero((found != wanted).any(axis=1))
    assert len(differing) == 0, (found[differing[0]], wanted[differing[0]])


def test_packed_parameters_can_be_unpacked() -> None:
    parameters = draw(EVERYTHING, keys(5, torch.arange(50)), *all_of_size(50, 30, 40).unbind(1))
    rows = parameters.pack()
    assert rows.shape == (50, NUM_PARAMETERS)
    again = ViewParameters.unpack(rows)
    for field in dataclasses.fields(ViewParameters):
        one, other = getattr(again, field.name), getattr(parameters, field.name)
        assert one.dtype == other.dtype, field.name
        assert torch.equal(one, other), field.name
    assert torch.equal(again.pack(), rows)


# Views.


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.parametrize("size", [13, 16])
def test_each_operation_is_that_of_the_reference(name: str, size: int) -> None:
    source, sizes = images(24, 28, 41), all_of_size(24, 28, 41)
    found = stored(RECIPES[name], source, sizes, size)
    wanted = expected(RECIPES[name], source, sizes, size)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)
    plain = stored(RECIPES["crop"], source, sizes, size)
    assert ((found[0] - plain[0]).abs().max() > 0.1) == (name != "crop")


@pytest.mark.parametrize("name", ["crop", "all"])
@pytest.mark.parametrize("size", [4, 12, 13, 16, 33, 96])
@pytest.mark.parametrize("source", [(8, 8), (1, 1), (1, 50), (20, 3), (100, 70)], ids=str)
def test_views_and_images_may_have_any_size(name: str, size: int, source: tuple[int, int]) -> None:
    some, sizes = images(12, *source, seed=size), all_of_size(12, *source)
    found = stored(RECIPES[name], some, sizes, size)
    # The reference knows a coordinate of an affine map to about 1e-5 pixels, and neighbouring pixels may differ by 1.
    tolerance = 3 * TOLERANCE if RECIPES[name].has_affine else TOLERANCE
    for one, other in zip(found, expected(RECIPES[name], some, sizes, size), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def test_no_memory_is_read_that_was_never_written() -> None:
    """What a crop is made of ends at its border, though vector instructions read on: what is there counts nothing,
    unless it is no number. The heap is strewn with such before."""
    recipe = RECIPES["crop"].model_copy(update={"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0)})
    some = [image.numpy() for image in images(4, 100, 100)]
    for _ in range(20):
        strewn = [np.full(length, np.nan, dtype=np.float32) for length in range(200, 600, 3) for _ in range(5)]
        del strewn
        views, _ = from_decoded(recipe, some, 4, as_crops=False)
        assert np.isfinite(views).all()


@pytest.mark.parametrize("changes", [{}, ONE_PIXEL, {"crop_area": (0.9, 1)}], ids=["any", "one pixel", "nearly all"])
@pytest.mark.parametrize("name", ["crop", "zoom", "all"])
def test_images_that_are_stored_squeezed_are_cropped_in_their_own_geometry(name: str, changes: dict[str, Any]) -> None:
    """Also where a crop is smaller than one stored pixel."""
    recipe = RECIPES[name].model_copy(update=changes)
    source = images(40, 16, 16)
    generator = torch.Generator().manual_seed(2)
    sizes = torch.randint(8, 200, (40, 2), generator=generator)
    found = stored(recipe, source, sizes, 13)
    for one, other in zip(found, expected(recipe, source, sizes, 13), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)
    elsewhere = stored(recipe, source, all_of_size(40, 16, 16), 13)
    assert (elsewhere[0] - found[0]).abs().max() > 0.1


def test_a_crop_of_one_pixel_is_that_pixel() -> None:
    recipe = RECIPES["crop"].model_copy(update=ONE_PIXEL)
    source, sizes = images(60, 64, 64), all_of_size(60, 64, 64)
    box = parameters_of(recipe, sizes, 1).box.int()
    single = (box[:, 2:] == 1).all(dim=1)
    assert single.sum() > 10
    views, _ = stored(recipe, source, sizes, 12)
    for i in single.nonzero().flatten().tolist():
        pixel = source[i, box[i, 0], box[i, 1]].float() / 255
        torch.testing.assert_close(views[i], pixel.view(3, 1, 1).expand(3, 12, 12), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(20, 30), (64, 64), (7, 90)])
@pytest.mark.parametrize("size", [12, 33, 96])
def test_crops_are_those_of_torchvision(height: int, width: int, size: int) -> None:
    recipe = AugmentConfig(**(NOTHING | {"flip": 0.5, "crop_area": (0.02, 1)}))
    source, sizes = images(40, height, width), all_of_size(40, height, width)
    parameters = parameters_of(recipe, sizes, 2)
    assert 10 < parameters.flip.sum() < 30
    _, views = stored(recipe, source, sizes, size)
    for image, box, flip, view in zip(source, parameters.box.int().tolist(), parameters.flip, views, strict=True):
        levels = image.permute(2, 0, 1).float() / 255
        wanted = reference.resized_crop(levels, *box, size=[size, size], antialias=True)
        wanted = reference.horizontal_flip(wanted) if flip else wanted
        torch.testing.assert_close(view, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [12, 33])
def test_affine_maps_are_those_of_torchvision(size: int) -> None:
    """Of the whole image at its own size. Torchvision's fill of 0 fades twice at the border, so without one here."""
    recipe = AugmentConfig(**(NOTHING | {"rotation": 90, "shear": 30, "zoom": (0.6, 1.4), "crop_area": (1, 1)}))
    recipe = recipe.model_copy(update={"crop_aspect": (1, 1)})
    source, sizes = images(30, size, size), all_of_size(30, size, size)
    p = parameters_of(recipe, sizes, 1)
    views, _ = stored(recipe, source, sizes, size)
    for i, view in enumerate(views):
        wanted = reference.affine(
            source[i].permute(2, 0, 1).float() / 255,
            float(p.angle[i]),
            [0, 0],
            float(p.zoom[i]),
            [float(p.shear[i]), 0.0],
            v2.InterpolationMode.BILINEAR,
        )
        # A coordinate is known to about 1e-5 pixels, and neighbouring pixels may differ by 1.
        torch.testing.assert_close(view, wanted, rtol=0, atol=1e-4)


def test_normalisation_is_that_of_the_reference() -> None:
    source, sizes = images(10, 20, 20), all_of_size(10, 20, 20)
    found = stored(EVERYTHING, source, sizes, 16, MEAN, STD)
    for one, other in zip(found, expected(EVERYTHING, source, sizes, 16, MEAN, STD), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE / 0.2)
        assert one.is_contiguous(memory_format=torch.channels_last)
        assert one.dtype == torch.float32


def test_only_the_asked_for_images_are_shown_in_their_order() -> None:
    source, sizes = images(30, 20, 20), all_of_size(30, 20, 20)
    index = torch.tensor([7, 29, 0, 7, 3])
    maker = CpuViews(EVERYTHING, 16, MEAN, STD, threads=2)
    one, two = close_after(maker, lambda maker: maker.views_of_stored(source, sizes, index, bases()))
    all_one, all_two = stored(EVERYTHING, source, sizes, 16, MEAN, STD)
    assert torch.equal(one, all_one[index])
    assert torch.equal(two, all_two[index])


@pytest.mark.parametrize("threads", [1, 3])
def test_half_precision_is_the_rounded_single(threads: int) -> None:
    source, sizes = images(9, 20, 20), all_of_size(9, 20, 20)
    maker = CpuViews(EVERYTHING, 16, MEAN, STD, torch.bfloat16, threads)
    found = close_after(maker, lambda maker: maker.views_of_stored(source, sizes, torch.arange(9), bases()))
    for one, other in zip(found, stored(EVERYTHING, source, sizes, 16, MEAN, STD), strict=True):
        assert one.dtype == torch.bfloat16
        assert one.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one, other.bfloat16())


# Colours.


def finished(recipe: AugmentConfig, crops: Tensor, parameters: ViewParameters) -> Tensor:
    maker = CpuViews(recipe, crops.shape[1], ZERO, ONE, threads=2)
    return close_after(maker, lambda maker: maker.views_of_crops(crops, parameters.pack()))


@pytest.mark.parametrize("size", [12, 13, 16, 33, 96])
def test_finished_crops_are_those_of_the_reference(size: int) -> None:
    crops = images(30, size, size)
    parameters = parameters_of(EVERYTHING, all_of_size(30, 50, 50), 1)
    before = crops.clone()
    wanted = finish(crops.permute(0, 3, 1, 2), parameters, EVERYTHING, ZERO, ONE)
    torch.testing.assert_close(finished(EVERYTHING, crops, parameters), wanted, rtol=0, atol=TOLERANCE)
    assert torch.equal(crops, before)


ADJUST: tuple[Callable[[Tensor, float], Tensor], ...] = (
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
)


@pytest.mark.parametrize("size", [13, 33])
def test_colours_are_those_of_torchvision_in_all_24_orders(size: int) -> None:
    """Its own functions one after the other, then grey or not, then blur or not."""
    orders = torch.tensor(list(itertools.permutations(range(4)))).repeat(4, 1)
    count = len(orders)
    crops = images(count, size, size)
    p = parameters_of(EVERYTHING, all_of_size(count, 50, 50), 1)
    place = torch.arange(count)
    p = dataclasses.replace(p, order=orders, grey=place % 4 == 1, blur=place % 3 == 1, jitter=place % 5 > 0)
    for i, view in enumerate(finished(EVERYTHING, crops, p)):
        wanted = crops[i].permute(2, 0, 1).float() / 255
        for part in orders[i].tolist() if p.jitter[i] else ():
            wanted = ADJUST[part](wanted, float(p.factors[i, part]))
        if p.grey[i]:
            wanted = reference.rgb_to_grayscale(wanted, num_output_channels=3)
        if p.blur[i]:
            wanted = reference.gaussian_blur(wanted, [resample.blur_kernel_size(size)] * 2, [float(p.sigma[i])] * 2)
        torch.testing.assert_close(view, wanted, rtol=0, atol=COLOUR_TOLERANCE, msg=lambda m, i=i: f"view {i}: {m}")


@pytest.mark.parametrize("part", range(4), ids=["brightness", "contrast", "saturation", "hue"])
def test_the_strongest_colours_are_those_of_torchvision(part: int) -> None:
    """At the ends of what a recipe allows, and where nothing changes."""
    strengths = (-0.5, -0.17, 0.0, 1e-3, 0.5) if part == 3 else (0.0, 0.6, 1.0, 1.4, 2.0)
    names = ("brightness", "contrast", "saturation", "hue")
    recipe = AugmentConfig(**(NOTHING | dict.fromkeys(names, 0.0) | {"jitter": 1.0, names[part]: 0.5}))
    count = 3 * len(strengths)
    factors = torch.full((count, 4), torch.nan)  # of the other parts: never looked at
    factors[:, part] = torch.tensor(strengths).repeat_interleave(3)
    crops = images(count, 16, 16)
    p = dataclasses.replace(parameters_of(recipe, all_of_size(count, 50, 50), 1), factors=factors)
    for crop, factor, view in zip(crops, factors[:, part].tolist(), finished(recipe, crops, p), strict=True):
        wanted = ADJUST[part](crop.permute(2, 0, 1).float() / 255, factor)
        torch.testing.assert_close(view, wanted, rtol=0, atol=COLOUR_TOLERANCE)


# Images that come decoded, each at its own size.


def from_decoded(
    recipe: AugmentConfig, some: list[np.ndarray[Any, Any]], size: int, as_crops: bool
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(2, B, S, S, 3) views or crops of images that lie one after the other, and (2, B, ...) parameters."""
    count = len(some)
    lengths = np.array([image.size for image in some])
    shapes = np.array([image.shape[:2] for image in some])
    full, empty = (2, count, size * size * 3), (2, 0, 0)
    views = np.full(empty if as_crops else full, np.nan, dtype=np.float32)
    crops = np.zeros(full if as_crops else empty, dtype=np.uint8)
    parameters = np.full((2, count, NUM_PARAMETERS), np.nan)
    plan, half = make_plan(recipe, size, ZERO, ONE), count // 2
    for start, stop in ((0, half), (half, count)):
        pixels = np.concatenate([image.reshape(-1) for image in some[start:stop]])
        offsets = np.cumsum(lengths[start:stop]) - lengths[start:stop]
        index = np.arange(count)
        base = np.array(bases())
        decoded_views(pixels, offsets, shapes, index, base, plan, start, stop, parameters, views, crops)
    return (crops if as_crops else views).reshape(2, count, size, size, 3), parameters


def unequal_images() -> list[np.ndarray[Any, Any]]:
    sides = np.random.default_rng(0).integers(1, 80, (20, 2)).tolist()
    return [images(3, height, width, seed=i)[i % 3].numpy() for i, (height, width) in enumerate(sides)]


@pytest.mark.parametrize("name", ["crop", "all"])
def test_views_of_unequal_images_are_those_of_the_reference(name: str) -> None:
    recipe, some = RECIPES[name], unequal_images()
    found, parameters = from_decoded(recipe, some, 13, as_crops=False)
    sizes = torch.tensor([image.shape[:2] for image in some])
    for view in (1, 2):
        drawn = parameters_of(recipe, sizes, view)
        assert (parameters[view - 1] == drawn.pack().numpy()).all()
        for i, image in enumerate(some):
            alone = ViewParameters(*(getattr(drawn, f.name)[i : i + 1] for f in dataclasses.fields(drawn)))
            source = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)
            wanted = apply(source, alone, recipe, 13, ZERO, ONE)[0].permute(1, 2, 0)
            torch.testing.assert_close(torch.from_numpy(found[view - 1, i]), wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("affine", [False, True])
def test_crops_of_whole_grey_levels_are_the_rounded_ones(affine: bool) -> None:
    """Their colours are left for later."""
    changes = {"rotation": 20.0} if affine else {"rotation": 0.0, "shear": 0.0, "zoom": (1.0, 1.0)}
    recipe = EVERYTHING.model_copy(update=changes)
    plain = recipe.model_copy(update={"jitter": 0.0, "grey": 0.0, "blur": 0.0})
    levels, parameters = from_decoded(recipe, unequal_images(), 13, as_crops=True)
    exact, others = from_decoded(plain, unequal_images(), 13, as_crops=False)
    assert levels.dtype == np.uint8
    assert np.abs(levels - 255.0 * exact).max() < 0.5 + 1e-4
    columns = [name for name in range(NUM_PARAMETERS) if name not in (JITTER, GREY, BLUR)]
    assert (parameters[..., columns] == others[..., columns]).all()


# Compiled code that is kept on disk.


def test_a_change_of_any_source_of_compiled_code_changes_the_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = compiling.source_stamp.__wrapped__
    now = stamp()
    assert now == compiling.source_stamp()
    package = Path(shutil.copytree(Path(compiling.__file__).parent, tmp_path / "cpu"))
    recipe = Path(shutil.copytree(Path(views.__file__).parent, tmp_path / "views"))
    monkeypatch.setattr(compiling, "__file__", str(package / "compile.py"))
    monkeypatch.setattr(views, "__file__", str(recipe / "__init__.py"))
    assert stamp() == now  # of the content, wherever it lies
    names = {path.name for path in package.glob("*.py")}
    assert names >= {"colour.py", "compile.py", "draw.py", "maker.py", "mix.py", "place.py", "threads.py", "views.py"}
    imported = {name for path in package.glob("*.py") for name in IMPORTED_VIEWS.findall(path.read_text())}
    assert imported >= {"colour", "view_parameters"}
    for path in [*package.glob("*.py"), *(recipe / f"{name}.py" for name in imported)]:
        before = path.read_text()
        path.write_text(before + "\n")
        assert stamp() != now, path
        path.write_text(before)
    (package / "new.py").write_text("")
    assert stamp() == now  # nothing in it
    (package / "new.py").write_text("x = 1\n")
    assert stamp() != now


def test_kept_code_is_used_until_the_stamp_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)

    def hits() -> int:
        """How often the function is found on disk, when its module is imported anew."""
        sys.modules.pop("inner", None)
        double = compiling.compiled(importlib.import_module("inner").double)
        assert double(21) == 42
        return sum(double.stats.cache_hits.values())

    assert [hits(), hits(), hits()] == [0, 1, 1]
    monkeypatch.setattr(compiling, "source_stamp", lambda: "another")
    assert [hits(), hits()] == [0, 1]


def test_the_process_that_compiles_rounds_as_those_that_use_what_it_kept(tmp_path: Path) -> None:
    """With the recipe of digits and views of 8 pixels, one value in eight differed."""
    program = """
import sys
import torch
from tcc_fast.config import load_config
from tcc_fast.pipelines.cpu.maker import CpuViews
from tcc_fast.pipelines.cpu.views import stored_views

images = torch.randint(256, (64, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
mean, std, sizes = torch.full((3,), 0.3), torch.full((3,), 0.37), torch.full((64, 2), 8)
maker = CpuViews(load_config("digits").augment, 8, mean, std)
torch.save(torch.stack(maker.views_of_stored(images, sizes, torch.arange(64), (1, 2))), sys.argv[1])
print(sum(stored_views.stats.cache_hits.values()))
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    files = [tmp_path / "first.pt", tmp_path / "later.pt"]
    commands = [[sys.executable, "-c", program, str(file)] for file in files]
    hits = [subprocess.run(command, env=environment, check=True, capture_output=True).stdout for command in commands]
    assert hits == [b"0\n", b"1\n"]
    first, later = (torch.load(file) for file in files)
    assert torch.equal(first, later)


def test_code_that_can_be_kept_nowhere_is_compiled_all_the_same() -> None:
    namespace: dict[str, Any] = {}
    exec("def triple(x):\n    return 3 * x\n", namespace)  # has no file
    assert compiling.compiled(namespace["triple"])(14) == 42


# Threads.


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("total", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("largest", [None, 1, 8])
def test_parts_cover_everything_once(count: int, total: int, largest: int | None) -> None:
    threads = Threads(count)
    parts: list[tuple[int, int]] = []
    names: set[int] = set()

    def work(start: int, stop: int) -> None:
        parts.append((start, stop))
        names.add(threading.get_ident())

    threads.parallel_for(work, total, largest)
    covered = [i for start, stop in sorted(parts) for i in range(start, stop)]
    assert covered == list(range(total))
    assert all(0 < stop - start <= (largest or total) for start, stop in parts)
    assert len(names) <= count
    threads.close()


def test_threads_work_at_the_same_time() -> None:
    threads = Threads(2)
    both = threading.Barrier(2, timeout=30)
    met: list[int] = []
    threads.parallel_for(lambda start, stop: met.append(both.wait()), 2)
    assert sorted(met) == [0, 1]
    threads.close()


def test_an_exception_comes_out_after_all_parts_are_done() -> None:
    threads = Threads(2)
    done = []

    def work(start: int, stop: int) -> None:
        if start == 0:
            raise RuntimeError("no memory left")
        time.sleep(0.05)
        done.append(start)

    with pytest.raises(RuntimeError, match="no memory left"):
        threads.parallel_for(work, 8)
    assert sorted(done) == list(range(1, 8))
    threads.parallel_for(lambda start, stop: done.append(-1), 1)  # goes on working
    assert done[-1] == -1
    threads.close()


def test_close_ends_the_threads_and_may_be_called_twice() -> None:
    before = set(threading.enumerate())
    threads = Threads(3)
    threads.parallel_for(lambda start, stop: None, 100)
    assert set(threading.enumerate()) - before
    threads.close()
    threads.close()
    assert not set(threading.enumerate()) - before


# The same by tensors, as on a GPU.


def makers(size: int, dtype: torch.dtype = torch.float32) -> tuple[CpuViews, TensorViews]:
    cpu = CpuViews(EVERYTHING, size, MEAN, STD, dtype, threads=2)
    return cpu, TensorViews(EVERYTHING, size, MEAN, STD, torch.device("cpu"), dtype)


@pytest.mark.parametrize("size", [13, 32])
def test_tensors_make_the_same_views(size: int) -> None:
    source = images(30, 20, 24)
    sizes = torch.randint(15, 60, (30, 2), generator=torch.Generator().manual_seed(0))
    index = 70 + torch.tensor([7, 29, 0, 7, 3, 11])
    crops, parameters = images(30, size, size), parameters_of(EVERYTHING, sizes, 1)
    cpu, tensors = makers(size)
    pairs = list(
        zip(*(maker.views_of_stored(source, sizes, index, bases(), 70) for maker in (cpu, tensors)), strict=True)
    )
    pairs.append((cpu.views_of_crops(crops, parameters.pack()), tensors.views_of_crops(crops, parameters.pack())))
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE / 0.2)
        assert one.stride() == other.stride()
        assert not other.requires_grad
    cpu.close()
    tensors.close()


def test_the_device_decides_who_makes_the_views() -> None:
    maker = view_maker(EVERYTHING, 8, MEAN, STD, torch.device("cpu"), torch.float32, threads=3)
    assert isinstance(maker, CpuViews)
    assert maker.threads.count == 3
    maker.close()
    maker = view_maker(EVERYTHING, 8, MEAN, STD, torch.device("meta"), torch.float32)
    assert isinstance(maker, TensorViews)


def test_tensors_are_compiled_once_for_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into one graph that moves pixels and one that changes colours, since `fullgraph` allows no more. The default back
    end needs a compiler of C++."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    source, sizes = images(30, 20, 24), torch.randint(15, 60, (30, 2), generator=torch.Generator().manual_seed(0))
    compiled = TensorViews(EVERYTHING, 16, MEAN, STD, torch.device("cpu"), torch.float32, compiled=True)
    eager = TensorViews(EVERYTHING, 16, MEAN, STD, torch.device("cpu"), torch.float32)
    for epoch in range(2):
        index = torch.randperm(30, generator=torch.Generator().manual_seed(epoch))[:8]
        for one, other in zip(
            *(maker.views_of_stored(source, sizes, index, bases(epoch)) for maker in (compiled, eager)), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE / 0.2)
    assert counter.frame_count == 2
    crops, parameters = images(8, 16, 16), parameters_of(EVERYTHING, sizes[:8], 1)
    for seed in range(2):
        parameters = draw(EVERYTHING, keys(seed, torch.arange(8)), *sizes[:8].unbind(1))
        one, other = (maker.views_of_crops(crops, parameters.pack()) for maker in (compiled, eager))
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE / 0.2)
    assert counter.frame_count == 3


# Memory of views.


def test_memory_is_used_again_only_when_nobody_holds_any_of_it() -> None:
    buffers = Buffers()
    first = buffers.take(4, 5)
    address = first.data_ptr()
    first.fill_(1)
    part = first[2:].t()
    second = buffers.take(4, 5)
    assert second.data_ptr() != address
    del first
    third = buffers.take(4, 5)  # `part` still holds the first one
    assert len({address, second.data_ptr(), third.data_ptr()}) == 3
    third.fill_(2)
    assert (part == 1).all()
    del part
    assert buffers.take(5, 4).data_ptr() == address
    assert buffers.take(5, 5).data_ptr() not in (second.data_ptr(), third.data_ptr())


def test_no_more_memory_is_kept_than_a_few_batches_need() -> None:
    buffers = Buffers()
    held = [buffers.take(1000) for _ in range(50)]
    assert len({tensor.data_ptr() for tensor in held}) == 50
    assert len(buffers._arrays) == KEPT
