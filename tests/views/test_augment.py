"""The two-view recipe against torchvision: what each operation computes, and how its parameters are distributed.

False alarms and power of the distribution tests. N = 20 000 draws a side, level ALPHA = 1e-4 for each comparison.
Seeds are fixed, so a test never flickers; were they chosen anew, a correct recipe would fail one of the about 40
comparisons once in 250 choices. Power, from 400 to 2000 simulated repetitions of each test:

- Kolmogorov-Smirnov (crop area, aspect and position, the four strengths, sigma, angle, shear, zoom), critical distance
  0.0223: a distribution function that is off by 0.035 at a single point is found with probability 0.996, a uniform
  quantity that is shifted by 0.025 of its range with more than 0.99.
- chi-square of a rate (flip, jitter, grey, blur): one half that is off by 0.035 is found with 0.998, 0.2 or 0.8 that is
  off by 0.03 with 0.998.
- chi-square of the 24 orders: against equal shares, one order that comes 1.35 times as often is found with 0.999, half
  of the orders 6 % more often and the others 6 % less with 0.99.

`test_a_slightly_wrong_recipe_is_found` shows it on recipes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from tcc_fast.draws import STREAM_AUGMENT, keys, scalar_key
from tcc_fast.pipelines.torch_views import reference_transform
from tcc_fast.settings import AugmentConfig
from tcc_fast.views.augment import apply, normalize, whole_view
from tcc_fast.views.colour import channels, colour_jitter, grey
from tcc_fast.views.resample import affine, blur_kernel_size, crop_resize, gaussian_blur
from tcc_fast.views.view_parameters import ViewParameters, draw

KINDS = ("noise", "smooth", "grey", "constant", "corners")
SIZES = ((8, 8), (17, 31), (64, 20), (64, 64))
COLOUR_TOLERANCE = 0.01 / 255
N = 20_000
ALPHA = 1e-4

# Everything in it is on, with rates that are not symmetric, so that a swap cannot hide.
FULL = AugmentConfig(
    rotation=20.0,
    shear=10.0,
    zoom=(0.8, 1.1),
    flip=0.4,
    jitter=0.8,
    brightness=0.4,
    contrast=0.3,
    saturation=0.5,
    hue=0.2,
    grey=0.2,
    blur=0.6,
)


def images(kind: str, count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """(count, 3, height, width) uint8."""
    generator = torch.Generator().manual_seed(seed)
    shape = {
        "noise": (count, 3, height, width),
        "smooth": (count, 3, 3, 3),
        "grey": (count, 1, height, width),
        "constant": (count, 3, 1, 1),
        "corners": (count, 3, height, width),
    }[kind]
    small = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    if kind == "corners":  # of the colour cube
        small = (small > 127).to(torch.uint8) * 255
    if kind == "smooth":
        return reference.resize(small, [height, width], antialias=True)
    return small.expand(count, 3, height, width).contiguous()


def in_unit(kind: str, count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return images(kind, count, height, width, seed).float() / 255.0


def some_keys(count: int, seed: int = 0) -> Tensor:
    return keys(scalar_key(STREAM_AUGMENT, seed), torch.arange(count))


def some_parameters(recipe: AugmentConfig, count: int, height: int, width: int, seed: int = 0) -> ViewParameters:
    side = torch.ones(count, dtype=torch.int64)
    return draw(recipe, some_keys(count, seed), height * side, width * side)


# What each operation computes.


def boxes(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Top, left, height, width: the whole, halves at each border, lines, single pixels, and some in between."""
    half_h, half_w = height // 2, width // 2
    far_y, far_x = height - 1, width - 1
    corners = [(t, x, half_h, half_w) for t in (0, height - half_h) for x in (0, width - half_w)]
    lines = [(0, 0, 1, width), (far_y, 0, 1, width), (0, 0, height, 1), (0, far_x, height, 1)]
    pixels = [(0, 0, 1, 1), (far_y, far_x, 1, 1), (half_h, half_w, 1, 1)]
    inner = [(1, 2, height - 3, width - 3), (2, 1, 3, 5), (half_h - 1, half_w - 2, 2, 3)]
    return [(0, 0, height, width), *corners, *lines, *pixels, *inner]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("size", [8, 20, 64])
def test_crop_resize_equals_torchvision(kind: str, height: int, width: int, size: int) -> None:
    where = boxes(height, width)
    sources = in_unit(kind, len(where), height, width)
    flip = torch.arange(len(where)) % 2 == 1
    box = torch.tensor(where, dtype=torch.float32)
    (found,) = crop_resize(sources, *box.unbind(1), flip, size)
    for source, corner, flipped, view in zip(sources, where, flip, found, strict=True):
        expected = reference.resized_crop(source, *corner, size=[size, size], antialias=True)
        if flipped:
            expected = reference.horizontal_flip(expected)
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5, msg=lambda m, c=corner: f"box {c}: {m}")


def test_crop_of_the_views_own_size_copies_the_pixels() -> None:
    sources = in_unit("noise", 2, 20, 30)
    top, left, side = torch.tensor([0.0, 12.0]), torch.tensor([22.0, 3.0]), torch.full((2,), 8.0)
    (found,) = crop_resize(sources, top, left, side, side, torch.tensor([False, True]), 8)
    assert torch.equal(found[0], sources[0, :, :8, 22:])
    assert torch.equal(found[1], sources[1, :, 12:, 3:11].flip(2))


ADJUST: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": reference.adjust_brightness,
    "contrast": reference.adjust_contrast,
    "saturation": reference.adjust_saturation,
    "hue": reference.adjust_hue,
}
FACTORS = {
    "brightness": (0.0, 0.6, 1.0, 1.4, 2.0),
    "contrast": (0.0, 0.6, 1.0, 1.4, 2.0),
    "saturation": (0.0, 0.6, 1.0, 1.4, 2.0),
    "hue": (-0.5, -0.4, -0.17, 0.0, 1e-3, 0.25, 0.4, 0.5),
}
STRONGEST = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}


def jitter_parameters(count: int, factors: Tensor, order: Tensor) -> ViewParameters:
    parameters = some_parameters(AugmentConfig(), count, 8, 8)
    on = torch.ones(count, dtype=torch.bool)
    return dataclasses.replace(parameters, jitter=on, factors=factors, order=order)


def jittered(sources: Tensor, parameters: ViewParameters, recipe: AugmentConfig) -> Tensor:
    return torch.stack(colour_jitter(channels(sources), parameters, recipe), dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [8, 13, 64])
@pytest.mark.parametrize("part", list(ADJUST))
def test_each_part_of_the_jitter_equals_torchvision(part: str, kind: str, size: int) -> None:
    strengths = FACTORS[part]
    count = len(strengths)
    sources = in_unit(kind, count, size, size)
    factors = torch.full((count, 4), math.nan)  # of the other parts: never looked at
    slot = list(ADJUST).index(part)
    factors[:, slot] = torch.tensor(strengths)
    recipe = AugmentConfig(**({name: 0.0 for name in ADJUST} | {part: STRONGEST[part]}))
    found = jittered(sources, jitter_parameters(count, factors, torch.arange(4).repeat(count, 1)), recipe)
    for source, strength, view in zip(sources, strengths, found, strict=True):
        expected = ADJUST[part](source, strength)
        torch.testing.assert_close(view, expected, rtol=0, atol=COLOUR_TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_jitter_equals_torchvision_in_all_24_orders(kind: str) -> None:
    orders = torch.tensor(list(itertools.permutations(range(4))))
    sources = in_unit(kind, len(orders), 16, 16)
    parameters = dataclasses.replace(some_parameters(FULL, len(orders), 16, 16), order=orders)
    found = jittered(sources, parameters, FULL)
    assert parameters.jitter.any()
    assert not parameters.jitter.all()
    for i, view in enumerate(found):
        expected = sources[i]
        if parameters.jitter[i]:
            expected = reference_jitter(expected, orders[i], parameters.factors[i])
        # A hue shift near a grey pixel magnifies the rounding of what came before it.
        torch.testing.assert_close(view, expected, rtol=0, atol=3 * COLOUR_TOLERANCE)


def reference_jitter(image: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """By ColorJitter's own `transform`."""
    named = {f"{name}_factor": float(factor) for name, factor in zip(ADJUST, factors, strict=True)}
    return v2.ColorJitter(1.0, 1.0, 1.0, 0.5).transform(image, {"fn_idx": order} | named)


def test_the_order_of_the_jitter_matters() -> None:
    """Else the test of all orders would prove little."""
    orders = torch.tensor(list(itertools.permutations(range(4))))
    source = in_unit("noise", 1, 16, 16).expand(len(orders), -1, -1, -1)
    factors = torch.tensor([1.4, 0.7, 1.3, 0.1]).repeat(len(orders), 1)
    views = jittered(source, jitter_parameters(len(orders), factors, orders), FULL)
    distance = (views.unsqueeze(0) - views.unsqueeze(1)).abs().amax(dim=(2, 3, 4)) + torch.eye(len(orders))
    assert distance.min() > 50 * COLOUR_TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_grey_equals_torchvision(kind: str) -> None:
    sources = in_unit(kind, 4, 16, 16)
    found = grey(channels(sources)).unsqueeze(1)
    torch.testing.assert_close(found, reference.rgb_to_grayscale(sources), rtol=0, atol=COLOUR_TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [4, 8, 13, 32, 64])
def test_blur_equals_torchvision(kind: str, size: int) -> None:
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0])
    sources = in_unit(kind, len(sigma), size, size)
    found = gaussian_blur(sources, sigma)
    for source, s, view in zip(sources, sigma.tolist(), found, strict=True):
        expected = reference.gaussian_blur(source, [blur_kernel_size(size)] * 2, [s, s])
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "kernel"), [(4, 3), (8, 3), (32, 3), (64, 7), (96, 9), (224, 23)])
def test_blur_kernel_is_odd_and_a_tenth_of_the_view(size: int, kernel: int) -> None:
    assert blur_kernel_size(size) == kernel


MAPS = [
    (0.0, 0.0, 1.0),
    (30.0, 0.0, 1.0),
    (-90.0, 0.0, 1.0),
    (180.0, 0.0, 1.0),
    (0.0, 25.0, 1.0),
    (0.0, -25.0, 1.0),
    (0.0, 0.0, 0.7),
    (0.0, 0.0, 1.4),
    (20.0, 15.0, 0.8),
    (20.0, -15.0, 1.2),
    (-130.0, 40.0, 0.9),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_affine_equals_torchvision(kind: str, height: int, width: int) -> None:
    """Wholly with nothing to fill. With fill 0, up to the last half pixel before the black: there torchvision
    multiplies a tensor, which already fades, by a mask that fades; and PIL, on which it is used, does not fade."""
    sources = in_unit(kind, len(MAPS), height, width)
    found = affine(sources, *torch.tensor(MAPS).unbind(1))
    inside = affine(torch.ones_like(sources), *torch.tensor(MAPS).unbind(1))
    for source, (angle, shear, zoom), view, cover in zip(sources, MAPS, found, inside, strict=True):
        options: dict[str, Any] = {
            "angle": angle,
            "translate": [0, 0],
            "scale": zoom,
            "shear": [shear, 0.0],
            "interpolation": v2.InterpolationMode.BILINEAR,
        }
        # A coordinate is known to about 1e-5 pixels, and neighbouring pixels may differ by 1.
        torch.testing.assert_close(view, reference.affine(source, **options), rtol=0, atol=1e-4)
        filled = reference.affine(source, **options, fill=[0.0])
        torch.testing.assert_close(view * cover, filled, rtol=0, atol=1e-4)


def test_affine_agrees_with_torchvision_on_pil_images() -> None:
    """The `torch` pipeline runs on PIL images, where the border is a sharp edge: it may be neither darker nor brighter
    on the whole than ours, which fades over a pixel."""
    source = images("smooth", 1, 40, 56)
    pil = Image.fromarray(source[0].permute(1, 2, 0).numpy())
    maps = torch.tensor(MAPS).unbind(1)
    sources = (source.float() / 255.0).expand(len(MAPS), -1, -1, -1)
    turned = [
        reference.affine(pil, angle, [0, 0], zoom, [shear, 0.0], v2.InterpolationMode.BILINEAR, fill=0)
        for angle, shear, zoom in MAPS
    ]
    expected = torch.stack([reference.to_dtype(reference.to_image(t), torch.float32, scale=True) for t in turned])
    difference = affine(sources, *maps) - expected
    inside = affine(torch.ones_like(sources), *maps) > 1 - 1e-5
    assert difference[inside].abs().max() < 1.5 / 255
    assert difference.mean().abs() < 0.002


def test_affine_of_squeezed_images_is_meant_in_their_own_geometry() -> None:
    original = in_unit("smooth", 1, 48, 96)
    parameters = torch.tensor([[35.0, 10.0, 0.9]]).unbind(1)
    expected = reference.resize(affine(original, *parameters), [48, 48], antialias=True)
    squeezed = reference.resize(original, [48, 48], antialias=True)
    own = (affine(squeezed, *parameters, aspect=torch.tensor([2.0])) - expected).abs().mean()
    naive = (affine(squeezed, *parameters) - expected).abs().mean()
    assert own < 0.01
    assert naive > 5 * own


def test_normalize_equals_torchvision() -> None:
    sources = in_unit("noise", 3, 8, 8)
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.4])
    found = normalize(sources, mean, std)
    torch.testing.assert_close(found, reference.normalize(sources, mean.tolist(), std.tolist()), rtol=0, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (40, 24)])
def test_views_equal_torchvisions_operations_in_the_recipes_order(kind: str, height: int, width: int) -> None:
    count, size = 64, 20
    sources = images(kind, count, height, width)
    parameters = some_parameters(FULL, count, height, width)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    found = apply(sources, parameters, FULL, size, mean, std)
    assert found.shape == (count, 3, size, size)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    for decision in (parameters.flip, parameters.jitter, parameters.grey, parameters.blur):
        assert 0 < decision.sum() < count
    for i, view in enumerate(found):
        expected = reference_view(sources[i], parameters, i, size, mean, std)
        torch.testing.assert_close(view, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("size", "turned"), [(20, False), (20, True), (96, False)])
def test_products_in_float16_are_off_by_less_than_half_a_level(size: int, turned: bool) -> None:
    """Which is less than what views in bfloat16 are rounded by; products in bfloat16 would be off by more."""
    still = {} if turned else {"rotation": 0.0, "shear": 0.0, "zoom": (1.0, 1.0)}
    recipe = FULL.model_copy(update={"jitter": 0.0, "grey": 0.0, **still})
    sources = images("noise", 32, 130, 112)
    parameters = some_parameters(recipe, 64, 130, 112)
    zero, one = torch.zeros(3), torch.ones(3)
    exact = apply(sources, parameters, recipe, size, zero, one)

    def levels_off(products: torch.dtype) -> Tensor:
        return 255 * (apply(sources, parameters, recipe, size, zero, one, products=products) - exact).abs()

    half = levels_off(torch.float16)
    assert half.max() < 0.5
    assert half.mean() < 0.05
    assert levels_off(torch.bfloat16).max() > 0.5


@pytest.mark.parametrize("recipe", [FULL, FULL.model_copy(update={"rotation": 0.0, "shear": 0.0, "zoom": (1.0, 1.0)})])
def test_several_views_of_an_image_are_those_made_one_by_one(recipe: AugmentConfig) -> None:
    sources = images("noise", 5, 30, 24)
    parameters = some_parameters(recipe, 3 * len(sources), 30, 24)
    zero, one = torch.zeros(3), torch.ones(3)
    found = apply(sources, parameters, recipe, 12, zero, one)
    assert found.shape == (15, 3, 12, 12)
    for i, view in enumerate(found):
        fields = {f.name: getattr(parameters, f.name)[i : i + 1] for f in dataclasses.fields(parameters)}
        (expected,) = apply(sources[i % 5].unsqueeze(0), ViewParameters(**fields), recipe, 12, zero, one)
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


def reference_view(image: Tensor, parameters: ViewParameters, i: int, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """One view, from torchvision's operations on a float levels, at given parameters."""
    one = {f.name: getattr(parameters, f.name)[i] for f in dataclasses.fields(parameters)}
    levels = image.float() / 255.0
    levels = reference.affine(
        levels,
        float(one["angle"]),
        [0, 0],
        float(one["zoom"]),
        [float(one["shear"]), 0.0],
        v2.InterpolationMode.BILINEAR,
    )
    levels = reference.resized_crop(levels, *one["box"].int().tolist(), size=[size, size], antialias=True)
    if one["flip"]:
        levels = reference.horizontal_flip(levels)
    if one["jitter"]:
        levels = reference_jitter(levels, one["order"], one["factors"])
    if one["grey"]:
        levels = reference.rgb_to_grayscale(levels, num_output_channels=3)
    if one["blur"]:
        levels = reference.gaussian_blur(levels, [blur_kernel_size(size)] * 2, [float(one["sigma"])] * 2)
    return reference.normalize(levels, mean.tolist(), std.tolist())


def test_what_the_recipe_leaves_out_is_not_done() -> None:
    off = AugmentConfig(crop_area=(1, 1), crop_aspect=(1, 1), flip=0, jitter=0, grey=0)
    sources = images("noise", 4, 16, 16)
    zero, one = torch.zeros(3), torch.ones(3)
    found = apply(sources, some_parameters(off, 4, 16, 16), off, 16, zero, one)
    torch.testing.assert_close(found, sources.float() / 255.0, rtol=0, atol=1e-6)


def test_images_stored_squeezed_are_cropped_in_their_own_geometry() -> None:
    """Each has a geometry of its own; the views are those of the image before it was squeezed."""
    geometry = torch.tensor([[96, 48], [48, 96], [60, 64]])
    recipe = AugmentConfig(rotation=20, zoom=(0.9, 1.0), jitter=0, grey=0)
    parameters = draw(recipe, some_keys(3), *geometry.unbind(1))
    originals = [images("smooth", 1, h, w, seed=h) for h, w in geometry.tolist()]
    stored = torch.cat([reference.resize(original, [48, 48], antialias=True) for original in originals])
    zero, one = torch.zeros(3), torch.ones(3)
    found = apply(stored, parameters, recipe, 32, zero, one, geometry=geometry.unbind(1))
    for i, original in enumerate(originals):
        single = ViewParameters(*(getattr(parameters, f.name)[i : i + 1] for f in dataclasses.fields(parameters)))
        expected = apply(original, single, recipe, 32, zero, one)
        assert (found[i] - expected[0]).abs().mean() < 0.01


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (999, 999, 1, 1), (500, 0, 1, 1000), (985, 15, 1, 3)])
def test_a_box_smaller_than_a_stored_pixel_shows_that_pixel(box: tuple[int, int, int, int]) -> None:
    """An image of 1000 pixels stored at 16: one pixel of its own is a 62nd of a stored one."""
    recipe = AugmentConfig(jitter=0, grey=0, flip=0)
    parameters = dataclasses.replace(some_parameters(recipe, 1, 1000, 1000), box=torch.tensor([box]).float())
    sides = torch.tensor([1000])
    stored = images("constant", 1, 16, 16)
    found = apply(stored, parameters, recipe, 8, torch.zeros(3), torch.ones(3), geometry=(sides, sides))
    torch.testing.assert_close(found, stored[:, :, :8, :8].float() / 255.0, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 8), (8, 8, 32), (40, 24, 16)])
def test_whole_view_is_the_resized_image(height: int, width: int, size: int) -> None:
    sources = images("noise", 3, height, width)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    found = whole_view(sources, size, mean, std)
    resized = reference.resize(sources.float() / 255.0, [size, size], antialias=True)
    torch.testing.assert_close(found, reference.normalize(resized, mean.tolist(), std.tolist()), rtol=0, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)


# How parameters are distributed. Quantities are (N,) float arrays by name.

GEOMETRIES = ((96, 96), (96, 128), (40, 200))
RATES = ("flip", "jitter", "grey", "blur", "fallback")
CONTINUOUS = ("angle", "shear", "zoom", "brightness", "contrast", "saturation", "hue", "sigma")
CROP = ("area", "aspect", "top", "left")
Draws = dict[str, np.ndarray]


def crop_quantities(box: np.ndarray, height: int, width: int) -> Draws:
    """Of (N, 4) boxes. Positions are relative to the room there is; where there is none they are left out."""
    top, left, box_h, box_w = box.astype(np.float64).T
    room_y, room_x = height - box_h, width - box_w
    aspect = np.clip(width / height, 3 / 4, 4 / 3)
    centre_w, centre_h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return {
        "area": box_h * box_w / (height * width),
        "aspect": np.log(box_w / box_h),
        "top": (top / room_y.clip(1))[room_y > 0],
        "left": (left / room_x.clip(1))[room_x > 0],
        "fallback": (box_w == centre_w) & (box_h == centre_h),
    }


@cache
def our_draws(recipe: AugmentConfig, height: int, width: int, seed: int = 1) -> Draws:
    parameters = some_parameters(recipe, N, height, width, seed)
    drawn = {name: getattr(parameters, name).numpy() for name in ("angle", "shear", "zoom", "sigma")}
    drawn |= {name: getattr(parameters, name).numpy() for name in ("flip", "jitter", "grey", "blur")}
    drawn |= dict(zip(ADJUST, parameters.factors.numpy().T, strict=True))
    drawn["order"] = parameters.order.numpy()
    return drawn | crop_quantities(parameters.box.numpy(), height, width)


@cache
def reference_box(height: int, width: int, smallest: float = 0.2, count: int = N) -> np.ndarray:
    """(count, 4) top, left, height, width by torchvision."""
    crop = v2.RandomResizedCrop(8, (smallest, 1.0), (3 / 4, 4 / 3), antialias=True)
    size = [torch.empty(3, height, width)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(scalar_key(height, width))
        drawn = [crop.make_params(size) for _ in range(count)]
    return np.array([[box["top"], box["left"], box["height"], box["width"]] for box in drawn])


@cache
def reference_draws() -> Draws:
    """All but the crop, from the very transforms of the `torch` pipeline."""
    transforms = reference_transform(FULL, 64, torch.zeros(3), torch.ones(3)).transforms
    by_type = {type(transform): transform for transform in transforms}
    colour, blur = (t for t in transforms if isinstance(t, v2.RandomApply))
    (jitter,), (gauss,) = colour.transforms, blur.transforms
    # Each decision is watched on an image of three pixels, which any of the operations changes.
    pixel = torch.tensor([[[0.1, 0.9]], [[0.6, 0.4]], [[0.2, 0.7]]])
    mark = [v2.Lambda(torch.zeros_like)]
    decisions = {
        "flip": by_type[v2.RandomHorizontalFlip],
        "grey": by_type[v2.RandomGrayscale],
        "jitter": v2.RandomApply(mark, colour.p),
        "blur": v2.RandomApply(mark, blur.p),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        moves = [by_type[v2.RandomAffine].make_params([pixel]) for _ in range(N)]
        colours = [jitter.make_params([]) for _ in range(N)]
        sigma = [gauss.make_params([])["sigma"][0] for _ in range(N)]
        drawn = {name: np.array([not step(pixel).equal(pixel) for _ in range(N)]) for name, step in decisions.items()}
    drawn |= {name: np.array([colour[f"{name}_factor"] for colour in colours]) for name in ADJUST}
    drawn["order"] = np.array([colour["fn_idx"].numpy() for colour in colours])
    drawn["angle"], drawn["zoom"] = np.array([(move["angle"], move["scale"]) for move in moves]).T
    drawn["shear"], shear_y = np.array([move["shear"] for move in moves]).T
    assert not shear_y.any()
    return drawn | {"sigma": np.array(sigma)}


def p_of_distribution(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Two-sample Kolmogorov-Smirnov; conservative where values tie."""
    return float(stats.ks_2samp(ours, theirs, method="asymp").pvalue)


def p_of_counts(*counts: np.ndarray) -> float:
    """Chi-square of homogeneity over samples; categories seen fewer than 10 times in all are counted together."""
    table = np.stack(counts)
    rare = table.sum(axis=0) < 10
    table = np.concatenate([table[:, ~rare], table[:, rare].sum(axis=1, keepdims=True)], axis=1)
    return float(stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue)


def p_of_rate(ours: np.ndarray, theirs: np.ndarray) -> float:
    return p_of_counts(*(np.bincount(side.astype(np.int64), minlength=2) for side in (ours, theirs)))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_strengths_are_distributed_as_torchvisions(name: str) -> None:
    assert p_of_distribution(our_draws(FULL, 96, 96)[name], reference_draws()[name]) > ALPHA


@pytest.mark.parametrize("name", ["flip", "jitter", "grey", "blur"])
def test_rates_are_torchvisions(name: str) -> None:
    assert p_of_rate(our_draws(FULL, 96, 96)[name], reference_draws()[name]) > ALPHA


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_never_is_never_and_always_is_always(rate: float) -> None:
    parameters = some_parameters(AugmentConfig(flip=rate, jitter=rate, grey=rate, blur=rate), N, 8, 8)
    for decision in (parameters.flip, parameters.jitter, parameters.grey, parameters.blur):
        assert (decision == bool(rate)).all()


def test_all_24_orders_of_the_jitter_are_equally_frequent() -> None:
    ours, theirs = (
        np.unique(drawn["order"], axis=0, return_counts=True) for drawn in (our_draws(FULL, 96, 96), reference_draws())
    )
    assert ours[0].tolist() == theirs[0].tolist() == sorted(map(list, itertools.permutations(range(4))))
    assert p_of_counts(ours[1], theirs[1]) > ALPHA
    assert stats.chisquare(ours[1]).pvalue > ALPHA


@pytest.mark.parametrize(("height", "width"), GEOMETRIES)
@pytest.mark.parametrize("name", CROP)
def test_crops_are_distributed_as_torchvisions(name: str, height: int, width: int) -> None:
    theirs = crop_quantities(reference_box(height, width), height, width)
    assert p_of_distribution(our_draws(FULL, height, width)[name], theirs[name]) > ALPHA


@pytest.mark.parametrize(("height", "width"), GEOMETRIES)
def test_the_centre_crop_is_fallen_back_on_as_often_as_in_torchvision(height: int, width: int) -> None:
    ours = our_draws(FULL, height, width)["fallback"]
    theirs = crop_quantities(reference_box(height, width), height, width)["fallback"]
    assert p_of_rate(ours, theirs) > ALPHA
    assert (ours.mean() > 0.5) == (width == 5 * height)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 8), (2, 9), (9, 2)])
def test_every_box_is_as_frequent_as_in_torchvision(height: int, width: int) -> None:
    """Small images have few boxes: all four numbers together, the rounding and the fallback included."""
    ours = some_parameters(FULL, N, height, width).box.numpy().astype(np.int64)
    theirs = reference_box(height, width)
    code = [side @ np.array([1000, 100, 10, 1]) for side in (ours, theirs)]
    assert p_of_counts(*(np.bincount(side, minlength=10_000) for side in code)) > ALPHA
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= [height, width]).all()
    assert (ours[:, 2:] >= 1).all()


def test_an_image_that_no_crop_fits_gets_the_centre_crop() -> None:
    for height, width in ((8, 400), (400, 8), (7, 300), (300, 7), (1, 1)):
        (box,) = np.unique(reference_box(height, width, smallest=0.9, count=50), axis=0)
        ours = some_parameters(AugmentConfig(crop_area=(0.9, 1.0)), 50, height, width).box
        assert (ours.numpy() == box).all()


def uniform_p(box: np.ndarray) -> float:
    """Of a 8 × 8 crop of 16 × 14: the 9 × 7 positions are equally likely."""
    return float(stats.chisquare(np.bincount(box[:, 0] * 7 + box[:, 1], minlength=63)).pvalue)


def test_every_position_is_equally_likely() -> None:
    recipe = AugmentConfig(crop_area=(64 / 224, 64 / 224), crop_aspect=(1, 1))
    box = some_parameters(recipe, N, 16, 14).box.numpy().astype(np.int64)
    assert (box[:, 2:] == 8).all()
    assert uniform_p(box) > ALPHA
    box[:, 0] = np.minimum(box[:, 0], 7)  # were the last position left out
    assert uniform_p(box) < ALPHA


WRONG: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "area": ({"crop_area": (0.25, 1.0)}, (96, 96)),
    "aspect": ({"crop_aspect": (0.8, 1.25)}, (96, 96)),
    "fallback": ({"crop_area": (0.22, 1.0)}, (40, 200)),
    "angle": ({"rotation": 22.0}, (96, 96)),
    "shear": ({"shear": 9.0}, (96, 96)),
    "zoom": ({"zoom": (0.78, 1.1)}, (96, 96)),
    "flip": ({"flip": 0.44}, (96, 96)),
    "jitter": ({"jitter": 0.77}, (96, 96)),
    "brightness": ({"brightness": 0.35}, (96, 96)),
    "contrast": ({"contrast": 0.35}, (96, 96)),
    "saturation": ({"saturation": 0.45}, (96, 96)),
    "hue": ({"hue": 0.22}, (96, 96)),
    "grey": ({"grey": 0.23}, (96, 96)),
    "blur": ({"blur": 0.56}, (96, 96)),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_slightly_wrong_recipe_is_found(name: str) -> None:
    changes, (height, width) = WRONG[name]
    ours = our_draws(FULL.model_copy(update=changes), height, width)[name]
    theirs = reference_draws() | crop_quantities(reference_box(height, width), height, width)
    test = p_of_rate if name in RATES else p_of_distribution
    assert test(ours, theirs[name]) < ALPHA


def decorrelated(columns: Draws, level: float) -> list[str]:
    """Pairs of quantities whose rank correlation is too large for independence."""
    names = list(columns)
    correlation = stats.spearmanr(np.stack(list(columns.values()), axis=1)).statistic
    limit = stats.norm.isf(level / 2) / math.sqrt(N - 1)
    return [
        f"{names[i]} and {names[j]}: {correlation[i, j]:.3f}"
        for i, j in itertools.combinations(range(len(names)), 2)
        if abs(correlation[i, j]) > limit
    ]


def test_the_choices_of_a_view_are_independent_of_each_other_and_of_the_other_view() -> None:
    """Level 1e-6 a pair, limit 0.035. A slot of the random numbers that is used twice correlates by much more."""
    columns: Draws = {}
    recipe = FULL.model_copy(update={"crop_area": (0.2, 0.6)})  # so that there is room on all sides
    for view in (1, 2):
        drawn = our_draws(recipe, 96, 96, view)
        names = [*CONTINUOUS, *CROP, *(name for name in RATES if name != "fallback")]
        columns |= {f"{name} of view {view}": drawn[name] for name in names}
        # Where brightness and contrast stand in the order: two of four, since the rest follows from them.
        columns |= {f"place of {part} of view {view}": (drawn["order"] == part).argmax(1) for part in (0, 1)}
    assert len({len(column) for column in columns.values()}) == 1
    found = [pair for pair in decorrelated(columns, 1e-6) if pair.count("place of") < 2]
    assert not found
    columns["a slot used twice"] = columns["hue of view 1"] + 3 * np.random.default_rng(0).uniform(size=N)
    assert decorrelated(columns, 1e-6)


# What parameters depend on.


def test_parameters_depend_on_the_key_alone() -> None:
    """Not on the other images of the batch, their number or their place."""
    sides = torch.tensor([20, 40, 33, 17, 64, 20, 20])
    key = some_keys(7)
    all_of_them = draw(FULL, key, sides, sides.flip(0))
    for i in (0, 3, 6):
        alone = draw(FULL, key[i : i + 1], sides[i : i + 1], sides.flip(0)[i : i + 1])
        for field in dataclasses.fields(ViewParameters):
            assert torch.equal(getattr(alone, field.name)[0], getattr(all_of_them, field.name)[i]), field.name


@pytest.mark.parametrize("coordinate", ["seed", "epoch", "view", "index"])
def test_every_coordinate_of_the_key_changes_the_draws(coordinate: str) -> None:
    index = torch.arange(100)
    base = {"seed": 5, "epoch": 7, "view": 1, "index": 0}

    def parameters(**changed: int) -> ViewParameters:
        at = base | changed
        key = keys(scalar_key(STREAM_AUGMENT, at["seed"], at["epoch"], at["view"]), index + at["index"])
        side = torch.full((100,), 1000)
        return draw(FULL, key, side, side)

    first, same, other = parameters(), parameters(), parameters(**{coordinate: base[coordinate] + 1})
    for name in ("angle", "shear", "zoom", "box", "factors", "sigma"):
        assert torch.equal(getattr(first, name), getattr(same, name))
        assert (getattr(first, name) != getattr(other, name)).float().mean() > 0.9, name
    for name in ("flip", "jitter", "grey", "blur", "order"):
        assert torch.equal(getattr(first, name), getattr(same, name))
        assert not torch.equal(getattr(first, name), getattr(other, name)), name
