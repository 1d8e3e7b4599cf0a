"""`tcc_fast.views.view_parameters.draw`, compiled: the same key gives the same parameters.

A view's parameters are a row of `NUM_PARAMETERS` float64, as `ViewParameters.pack` lays them out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcc_fast.pipelines.cpu.compile import compiled
from tcc_fast.settings import AugmentConfig
from tcc_fast.views import numbers as at
from tcc_fast.views.view_parameters import BLUR_SIGMA

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
Row = NDArray[np.float64]


def recipe_row(recipe: AugmentConfig) -> Row:
    """The numbers of the recipe that `draw_view` reads."""
    return np.array(
        [
            recipe.rotation,
            recipe.shear,
            *recipe.zoom,
            recipe.brightness,
            recipe.contrast,
            recipe.saturation,
            recipe.hue,
            *recipe.crop_area,
            math.log(recipe.crop_aspect[0]),
            math.log(recipe.crop_aspect[1]),
            recipe.flip,
            recipe.jitter,
            recipe.grey,
            recipe.blur,
        ],
        dtype=np.float64,
    )


@compiled
def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


@compiled
def key_of(base: Any, index: Any) -> Any:
    """The key of one index, as `tcc_fast.draws.keys` makes it, as uint64."""
    return _mix(np.uint64(base) + np.uint64(index + 1) * _GOLDEN)


@compiled
def _uniform(key: Any, slot: int) -> Any:
    return np.float64(_mix(key + np.uint64(slot + 1) * _GOLDEN) >> np.uint64(40)) * 2.0**-24


@compiled
def _between(key: Any, slot: int, low: float, high: float) -> Any:
    # In single precision, as the tensors of `draw` are.
    return np.float32(low) + np.float32(high - low) * np.float32(_uniform(key, slot))


@compiled
def draw_view(key: Any, height: float, width: float, recipe: Row, out: Row) -> None:
    """Fill `out`, (NUM_PARAMETERS,), for an image of `height` × `width` pixels. `recipe` is a `recipe_row`."""
    out[at.ANGLE] = _between(key, at.U_ANGLE, -recipe[0], recipe[0])
    out[at.SHEAR] = _between(key, at.U_SHEAR, -recipe[1], recipe[1])
    out[at.ZOOM] = _between(key, at.U_ZOOM, recipe[2], recipe[3])
    out[at.FLIP] = _uniform(key, at.U_FLIP) < recipe[12]
    for part in range(3):
        out[at.FACTORS + part] = _between(key, at.U_FACTORS + part, 1 - recipe[4 + part], 1 + recipe[4 + part])
    out[at.FACTORS + at.HUE] = _between(key, at.U_FACTORS + at.HUE, -recipe[7], recipe[7])
    out[at.JITTER] = _uniform(key, at.U_JITTER) < recipe[13]
    for part in range(4):
        u = _uniform(key, at.U_ORDER + part)
        rank = 0
        for other in range(4):
            v = _uniform(key, at.U_ORDER + other)
            rank += v < u or (v == u and other < part)
        out[at.ORDER + rank] = part
    out[at.GREY] = _uniform(key, at.U_GREY) < recipe[14]
    out[at.BLUR] = _uniform(key, at.U_BLUR) < recipe[15]
    out[at.SIGMA] = _between(key, at.U_SIGMA, BLUR_SIGMA[0], BLUR_SIGMA[1])
    _draw_box(key, height, width, recipe, out)


@compiled
def _draw_box(key: Any, height: float, width: float, recipe: Row, out: Row) -> None:
    # In single precision, step by step, or else one crop in 100 000 is a pixel larger than that of `draw`.
    f = np.float32
    h, w = f(height), f(width)
    low_aspect, aspect_span = f(recipe[10]), f(recipe[11] - recipe[10])
    for attempt in range(at.CROP_ATTEMPTS):
        target = h * w * _between(key, at.U_AREA + attempt, recipe[8], recipe[9])
        aspect = f(math.exp(low_aspect + aspect_span * f(_uniform(key, at.U_ASPECT + attempt))))
        crop_w, crop_h = np.rint(np.sqrt(target * aspect)), np.rint(np.sqrt(target / aspect))
        if f(0) < crop_w <= w and f(0) < crop_h <= h:
            out[at.TOP] = math.floor(f(_uniform(key, at.U_PLACE)) * (h - crop_h + f(1)))
            out[at.LEFT] = math.floor(f(_uniform(key, at.U_PLACE + 1)) * (w - crop_w + f(1)))
            out[at.HEIGHT], out[at.WIDTH] = crop_h, crop_w
            return
    lowest, highest = f(math.exp(recipe[10])), f(math.exp(recipe[11]))
    crop_w = np.rint(h * highest) if w / h > highest else w
    crop_h = np.rint(w / lowest) if w / h < lowest else h
    crop_w, crop_h = max(crop_w, f(1)), max(crop_h, f(1))
    out[at.TOP], out[at.LEFT] = math.floor((h - crop_h) / f(2)), math.floor((w - crop_w) / f(2))
    out[at.HEIGHT], out[at.WIDTH] = crop_h, crop_w
