"""Where a view's numbers lie, for whatever draws or packs them: uniform ones that its key gives, and its parameters."""

from __future__ import annotations

CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop

# Which of the uniform numbers decides what. Four are the factors of the jitter, four its order.
U_ANGLE, U_SHEAR, U_ZOOM, U_FLIP, U_FACTORS = 0, 1, 2, 3, 4
U_JITTER, U_ORDER, U_GREY, U_BLUR, U_SIGMA = 8, 9, 13, 14, 15
# Each attempt at a crop has an area and an aspect ratio; where the crop lies takes the first two of as many numbers.
U_AREA = 16
U_ASPECT = U_AREA + CROP_ATTEMPTS
U_PLACE = U_ASPECT + CROP_ATTEMPTS
NUM_DRAWS = U_PLACE + CROP_ATTEMPTS

# Columns of a row of parameters.
ANGLE, SHEAR, ZOOM, TOP, LEFT, HEIGHT, WIDTH, FLIP, JITTER = range(9)
FACTORS = 9  # four of them, by part
ORDER = 13  # the four parts in the order they are applied
GREY, BLUR, SIGMA = 17, 18, 19
NUM_PARAMETERS = 20

# Parts of the colour jitter, whose factors lie in this order.
JITTER_PARTS = ("brightness", "contrast", "saturation", "hue")
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
