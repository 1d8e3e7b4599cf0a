"""What happens to each view: drawn for a whole batch from keys, with torchvision's distributions, on any device.

Every number is one of the uniform ones that a key gives, so equal keys give equal views. What is then done with
the parameters stands in `tcc_fast.views.augment`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tcc_fast.draws import uniform
from tcc_fast.settings import AugmentConfig
from tcc_fast.views import numbers as at

BLUR_SIGMA = (0.1, 2.0)


@dataclass(frozen=True)
class ViewParameters:
    """What happens to each of B views."""

    angle: Tensor
    """(B,) degrees, clockwise as torchvision's RandomAffine."""
    shear: Tensor
    """(B,) degrees along x."""
    zoom: Tensor
    """(B,) scale factor."""
    box: Tensor
    """(B, 4) crop top, left, height, width, in pixels of the image's own geometry."""
    flip: Tensor
    """(B,) bool."""
    jitter: Tensor
    """(B,) bool: whether the colour jitter is applied."""
    factors: Tensor
    """(B, 4) brightness, contrast and saturation factor, hue shift in turns."""
    order: Tensor
    """(B, 4) int64: the parts of the jitter, as indices into ``factors``, in the order they are applied."""
    grey: Tensor
    """(B,) bool."""
    blur: Tensor
    """(B,) bool."""
    sigma: Tensor
    """(B,) pixels."""

    def pack(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """All parameters in one tensor, (B, NUM_PARAMETERS), to be copied at once."""
        first = [self.angle, self.shear, self.zoom, *self.box.unbind(1), self.flip, self.jitter]
        last = [*self.factors.unbind(1), *self.order.unbind(1), self.grey, self.blur, self.sigma]
        columns = [column.to(dtype) for column in first + last]
        if not torch.compiler.is_compiling():
            return torch.stack(columns, dim=1)
        # Of a choice for each element a compiler makes one kernel, of a stack one for each column.
        place = torch.arange(at.NUM_PARAMETERS, device=self.sigma.device)
        rows = torch.zeros(1, dtype=dtype, device=self.sigma.device)
        for number, column in enumerate(columns):
            rows = torch.where(place == number, column.unsqueeze(1), rows)
        return rows

    @staticmethod
    def unpack(rows: Tensor) -> ViewParameters:
        """The opposite of :meth:`pack`, on any device."""
        number, switch = rows.float(), rows != 0
        return ViewParameters(
            angle=number[:, at.ANGLE],
            shear=number[:, at.SHEAR],
            zoom=number[:, at.ZOOM],
            box=number[:, at.TOP : at.WIDTH + 1],
            flip=switch[:, at.FLIP],
            jitter=switch[:, at.JITTER],
            factors=number[:, at.FACTORS : at.FACTORS + 4],
            order=rows[:, at.ORDER : at.ORDER + 4].long(),
            grey=switch[:, at.GREY],
            blur=switch[:, at.BLUR],
            sigma=number[:, at.SIGMA],
        )


def draw(recipe: AugmentConfig, key: Tensor, heights: Tensor, widths: Tensor) -> ViewParameters:
    """Draw the parameters of one view for each of B images, with torchvision's distributions.

    Args:
        recipe: probabilities and ranges.
        key: (B,) int64; equal keys draw equal parameters.
        heights: (B,) size of each image, in pixels.
        widths: (B,).
    """
    return parameters_of(recipe, uniform(key, at.NUM_DRAWS), heights, widths)


def parameters_of(recipe: AugmentConfig, u: Tensor, heights: Tensor, widths: Tensor) -> ViewParameters:
    """:func:`draw` from its uniform numbers, (B, NUM_DRAWS)."""

    def between(slot: int, low: float, high: float) -> Tensor:
        return low + (high - low) * u[:, slot]

    factors = torch.stack(
        [
            between(at.U_FACTORS + at.BRIGHTNESS, 1 - recipe.brightness, 1 + recipe.brightness),
            between(at.U_FACTORS + at.CONTRAST, 1 - recipe.contrast, 1 + recipe.contrast),
            between(at.U_FACTORS + at.SATURATION, 1 - recipe.saturation, 1 + recipe.saturation),
            between(at.U_FACTORS + at.HUE, -recipe.hue, recipe.hue),
        ],
        dim=1,
    )
    crop_aspect = (math.log(recipe.crop_aspect[0]), math.log(recipe.crop_aspect[1]))
    return ViewParameters(
        angle=between(at.U_ANGLE, -recipe.rotation, recipe.rotation),
        shear=between(at.U_SHEAR, -recipe.shear, recipe.shear),
        zoom=between(at.U_ZOOM, *recipe.zoom),
        box=_crop_box(u[:, at.U_AREA :], recipe.crop_area, crop_aspect, heights, widths),
        flip=u[:, at.U_FLIP] < recipe.flip,
        jitter=u[:, at.U_JITTER] < recipe.jitter,
        factors=factors,
        order=u[:, at.U_ORDER : at.U_ORDER + 4].argsort(dim=1),
        grey=u[:, at.U_GREY] < recipe.grey,
        blur=u[:, at.U_BLUR] < recipe.blur,
        sigma=between(at.U_SIGMA, *BLUR_SIGMA),
    )


def _crop_box(
    u: Tensor, area: tuple[float, float], log_aspect: tuple[float, float], heights: Tensor, widths: Tensor
) -> Tensor:
    """RandomResizedCrop.get_params for a whole batch: the first of ten attempts that fits, else a centre crop."""
    u_area, u_aspect, u_place = u.split(at.CROP_ATTEMPTS, dim=1)  # (B, 10) each
    height, width = heights.float().unsqueeze(1), widths.float().unsqueeze(1)
    target = height * width * (area[0] + (area[1] - area[0]) * u_area)
    aspect = torch.exp(log_aspect[0] + (log_aspect[1] - log_aspect[0]) * u_aspect)
    crop_w = torch.round(torch.sqrt(target * aspect))
    crop_h = torch.round(torch.sqrt(target / aspect))
    fits = (crop_w > 0) & (crop_w <= width) & (crop_h > 0) & (crop_h <= height)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)  # 0 when none fits; replaced below
    crop_w, crop_h = crop_w.gather(1, first).squeeze(1), crop_h.gather(1, first).squeeze(1)
    # Two slots of the place draws that belong to no attempt in particular: the position needs no more.
    top = torch.floor(u_place[:, 0] * (heights - crop_h + 1))
    left = torch.floor(u_place[:, 1] * (widths - crop_w + 1))

    image_aspect = widths / heights
    lowest, highest = math.exp(log_aspect[0]), math.exp(log_aspect[1])
    centre_w = torch.where(image_aspect > highest, torch.round(heights * highest), widths.float())
    centre_h = torch.where(image_aspect < lowest, torch.round(widths / lowest), heights.float())
    centre_w, centre_h = centre_w.clamp(min=1.0), centre_h.clamp(min=1.0)
    centre = torch.stack(
        [torch.floor((heights - centre_h) / 2), torch.floor((widths - centre_w) / 2), centre_h, centre_w], dim=1
    )
    return torch.where(fits.any(dim=1, keepdim=True), torch.stack([top, left, crop_h, crop_w], dim=1), centre)
