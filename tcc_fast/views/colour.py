"""What changes colours: torchvision's ColorJitter and luma, for a whole batch whose images each go their own way.

Shapes: B images of S × S pixels, in 0..1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tcc_fast.settings import AugmentConfig
from tcc_fast.views.numbers import BRIGHTNESS, CONTRAST, HUE, JITTER_PARTS, SATURATION
from tcc_fast.views.view_parameters import ViewParameters

GREY_WEIGHTS = (0.2989, 0.587, 0.114)


class RGB(NamedTuple):
    """The channels of B images, (B, S, S) each: apart, since each needs the others, so that a compiler reads them once
    for all three."""

    red: Tensor
    green: Tensor
    blue: Tensor


def channels(images: Tensor) -> RGB:
    """The channels of images (B, 3, S, S), taken apart."""
    return RGB(*images.unbind(1))


def _for_pixels(values: Tensor) -> Tensor:
    """Values of images in the shape that goes with their pixels: (B,) to (B, 1, 1)."""
    return values.view(-1, 1, 1)


def grey(rgb: RGB) -> Tensor:
    """Luma of images, (B, S, S)."""
    return GREY_WEIGHTS[0] * rgb.red + GREY_WEIGHTS[1] * rgb.green + GREY_WEIGHTS[2] * rgb.blue


def colour_jitter(rgb: RGB, parameters: ViewParameters, recipe: AugmentConfig) -> RGB:
    """ColorJitter with a random order for each image. Parts whose strength is 0 in the recipe are left out.

    The contrast needs the mean of the whole image as it is by then; it is taken once, between what an image has before
    it and what it has after it.
    """
    active = {place for place, part in enumerate(JITTER_PARTS) if getattr(recipe, part) > 0}
    if not active or not recipe.jitter:
        return rgb
    # When each part has its turn, (B,) each.
    turn = {part: (parameters.order == part).to(torch.uint8).argmax(dim=1) for part in range(len(JITTER_PARTS))}
    if CONTRAST not in active:
        return _pointwise(rgb, parameters, active, turn, dict.fromkeys(turn, parameters.jitter))
    before = {part: parameters.jitter & (turn[part] < turn[CONTRAST]) for part in turn}
    after = {part: parameters.jitter & (turn[part] > turn[CONTRAST]) for part in turn}
    rgb = _pointwise(rgb, parameters, active, turn, before)
    rgb = where(parameters.jitter, _contrast(rgb, _for_pixels(parameters.factors[:, CONTRAST])), rgb)
    return _pointwise(rgb, parameters, active, turn, after)


def _pointwise(
    rgb: RGB, parameters: ViewParameters, active: set[int], turn: dict[int, Tensor], chosen: dict[int, Tensor]
) -> RGB:
    """Do all active parts but the contrast, each in the images that are chosen for it, in every image's own order.

    Hue costs several times what the others do, so it is computed once: what comes before it, and what comes after it,
    are brightness and saturation in either order.
    """

    def change(rgb: RGB, part: int, now: Tensor) -> RGB:
        if part not in active:
            return rgb
        return where(now, _JITTER[part](rgb, _for_pixels(parameters.factors[:, part])), rgb)

    def brightness_and_saturation(rgb: RGB, before_hue: bool) -> RGB:
        bright, saturated = (
            chosen[part] & ((turn[part] < turn[HUE]) == before_hue) for part in (BRIGHTNESS, SATURATION)
        )
        saturated_first = turn[SATURATION] < turn[BRIGHTNESS]
        rgb = change(rgb, SATURATION, saturated & saturated_first)
        rgb = change(rgb, BRIGHTNESS, bright)
        return change(rgb, SATURATION, saturated & ~saturated_first)

    rgb = brightness_and_saturation(rgb, True)
    rgb = change(rgb, HUE, chosen[HUE])
    return brightness_and_saturation(rgb, False)


def where(chosen: Tensor, new: RGB, old: RGB) -> RGB:
    """The new channels in the chosen images, (B,), the old ones in the others."""
    chosen = _for_pixels(chosen)
    return RGB(*(torch.where(chosen, *pair) for pair in zip(new, old, strict=True)))


def _brightness(rgb: RGB, factor: Tensor) -> RGB:
    return RGB(*((channel * factor).clamp(0.0, 1.0) for channel in rgb))


def _blend(rgb: RGB, other: Tensor, factor: Tensor) -> RGB:
    return RGB(*((factor * channel + (1 - factor) * other).clamp(0.0, 1.0) for channel in rgb))


def _contrast(rgb: RGB, factor: Tensor) -> RGB:
    return _blend(rgb, grey(rgb).mean(dim=(1, 2), keepdim=True), factor)


def _saturation(rgb: RGB, factor: Tensor) -> RGB:
    return _blend(rgb, grey(rgb), factor)


def _hue(rgb: RGB, shift: Tensor) -> RGB:
    """Shift the hue by a fraction of a turn, through HSV."""
    red, green, blue = rgb
    value, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low
    divisor = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    turns = hue / 6.0 + shift
    sector = (turns - turns.floor()) * 6.0

    def channel(offset: int) -> Tensor:
        """One channel: value - chroma · trapezoid((offset + sector) mod 6)."""
        k = offset + sector
        k = torch.where(k >= 6.0, k - 6.0, k)
        return value - chroma * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0)

    return RGB(channel(5), channel(3), channel(1))


_JITTER = (_brightness, _contrast, _saturation, _hue)
