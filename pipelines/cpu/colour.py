"""What changes colours: jitter, grey, normalise. See `finish` in `tcc_fast.views.augment`.

Functions work on the three planes of one view, or on a part of each: (n,) float32 in 0..1, in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcc_fast.pipelines.cpu.compile import compiled, vectorised
from tcc_fast.views.colour import GREY_WEIGHTS
from tcc_fast.views.numbers import BRIGHTNESS, CONTRAST, FACTORS, GREY, JITTER, ORDER, SATURATION

Plane = NDArray[np.float32]
_WR, _WG, _WB = (np.float32(weight) for weight in GREY_WEIGHTS)
_0, _1, _2, _4, _6 = (np.float32(number) for number in (0, 1, 2, 4, 6))


@vectorised
def _unit(x: Any) -> Any:
    return min(max(x, _0), _1)


@vectorised
def _brightness(red: Plane, green: Plane, blue: Plane, factor: Any) -> None:
    for i in range(red.size):
        red[i], green[i], blue[i] = _unit(red[i] * factor), _unit(green[i] * factor), _unit(blue[i] * factor)


@vectorised
def _contrast(red: Plane, green: Plane, blue: Plane, factor: Any, mean: Any) -> None:
    offset = (_1 - factor) * mean
    for i in range(red.size):
        red[i] = _unit(red[i] * factor + offset)
        green[i] = _unit(green[i] * factor + offset)
        blue[i] = _unit(blue[i] * factor + offset)


@vectorised
def _saturation(red: Plane, green: Plane, blue: Plane, factor: Any) -> None:
    rest = _1 - factor
    for i in range(red.size):
        grey = rest * (_WR * red[i] + _WG * green[i] + _WB * blue[i])
        red[i] = _unit(red[i] * factor + grey)
        green[i] = _unit(green[i] * factor + grey)
        blue[i] = _unit(blue[i] * factor + grey)


@vectorised
def _channel(k: Any, value: Any, chroma: Any) -> Any:
    k = k - _6 if k >= _6 else k
    return value - chroma * _unit(min(k, _4 - k))


@vectorised
def _hue(red: Plane, green: Plane, blue: Plane, shift: Any) -> None:
    turn = shift * _6
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        value = max(r, max(g, b))
        chroma = value - min(r, min(g, b))
        inverse = _1 / (chroma if chroma > _0 else _1)
        sector = (g - b) * inverse if value == r else (_2 + (b - r) * inverse if value == g else _4 + (r - g) * inverse)
        sector = sector + turn
        sector = sector + _6 if sector < _0 else sector
        sector = sector - _6 if sector >= _6 else sector
        red[i] = _channel(np.float32(5) + sector, value, chroma)
        green[i] = _channel(np.float32(3) + sector, value, chroma)
        blue[i] = _channel(_1 + sector, value, chroma)


@vectorised
def _to_grey(red: Plane, green: Plane, blue: Plane) -> None:
    for i in range(red.size):
        grey = _WR * red[i] + _WG * green[i] + _WB * blue[i]
        red[i], green[i], blue[i] = grey, grey, grey


@vectorised
def _grey_sum(red: Plane, green: Plane, blue: Plane) -> float:
    total = _0
    for i in range(red.size):
        total += _WR * red[i] + _WG * green[i] + _WB * blue[i]
    return np.float64(total)


@compiled
def before_contrast(planes: Any, start: int, stop: int, parameters: Any, active: Any) -> float:
    """The parts of the jitter that come before the contrast, on pixels start .. stop; returns their sum of grey.

    The contrast needs the mean of the whole image, so it parts the work in two. `active` says which of the four
    parts the recipe has at all.
    """
    if parameters[JITTER] == 0:
        return 0.0
    red, green, blue = planes[0, start:stop], planes[1, start:stop], planes[2, start:stop]
    for turn in range(4):
        part = int(parameters[ORDER + turn])
        if part == CONTRAST:
            break
        if active[part]:
            _jitter_part(red, green, blue, part, parameters)
    return _grey_sum(red, green, blue) if active[CONTRAST] else 0.0


@compiled
def from_contrast(planes: Any, start: int, stop: int, parameters: Any, active: Any, mean: float) -> None:
    """The contrast about the mean grey `mean`, the parts after it, and grey, on pixels start .. stop."""
    red, green, blue = planes[0, start:stop], planes[1, start:stop], planes[2, start:stop]
    if parameters[JITTER] != 0:
        reached = False
        for turn in range(4):
            part = int(parameters[ORDER + turn])
            if part == CONTRAST:
                reached = True
                if active[CONTRAST]:
                    _contrast(red, green, blue, np.float32(parameters[FACTORS + CONTRAST]), np.float32(mean))
            elif reached and active[part]:
                _jitter_part(red, green, blue, part, parameters)
    if parameters[GREY] != 0:
        _to_grey(red, green, blue)


@compiled
def _jitter_part(red: Plane, green: Plane, blue: Plane, part: int, parameters: Any) -> None:
    factor = np.float32(parameters[FACTORS + part])
    if part == BRIGHTNESS:
        _brightness(red, green, blue, factor)
    elif part == SATURATION:
        _saturation(red, green, blue, factor)
    else:
        _hue(red, green, blue, factor)


@vectorised
def interleave(planes: Any, start: int, stop: int, gain: Any, offset: Any, out: Any) -> None:
    """Normalise pixels start .. stop, channels side by side: out[3 i + c] = planes[c, i] · gain[c] + offset[c]."""
    red, green, blue = planes[0, start:stop], planes[1, start:stop], planes[2, start:stop]
    view = out[3 * start : 3 * stop]
    g0, g1, g2, o0, o1, o2 = gain[0], gain[1], gain[2], offset[0], offset[1], offset[2]
    for i in range(red.size):
        view[3 * i] = red[i] * g0 + o0
        view[3 * i + 1] = green[i] * g1 + o1
        view[3 * i + 2] = blue[i] * g2 + o2


@vectorised
def split_planes(levels: Any, start: int, stop: int, planes: Any) -> None:
    """Pixels start .. stop of (n · 3,) levels 0..255, channels side by side, to the planes in 0..1."""
    red, green, blue = planes[0, start:stop], planes[1, start:stop], planes[2, start:stop]
    view = levels[3 * start : 3 * stop]
    scale = np.float32(1 / 255)
    for i in range(red.size):
        red[i] = np.float32(view[3 * i]) * scale
        green[i] = np.float32(view[3 * i + 1]) * scale
        blue[i] = np.float32(view[3 * i + 2]) * scale


@vectorised
def to_levels(planes: Any, out: Any) -> None:
    """The planes in 0..1 as (n · 3,) levels 0..255, channels side by side, rounded."""
    red, green, blue = planes[0], planes[1], planes[2]
    scale, half = np.float32(255), np.float32(0.5)
    for i in range(out.size // 3):
        out[3 * i] = np.uint8(red[i] * scale + half)
        out[3 * i + 1] = np.uint8(green[i] * scale + half)
        out[3 * i + 2] = np.uint8(blue[i] * scale + half)
