"""What is added up over all stored images. Whole numbers until the last step: their order cannot matter."""

from __future__ import annotations

import hashlib
import math

from tcc_fast.datasets.encode import Stored

DARK = 8
"""Levels of 255; of twelve bits in sixteen, of which the upper eight are kept, 0 to 15 remain."""


class Totals:
    """Sums over the images given to `add`.

    Attributes:
        source_bytes: bytes of the images in the source.
        stored_bytes: bytes of the same images as stored, without the headers of the tar.
        num_encoded: how many were encoded anew as JPEG.
        num_cropped: how many were too long to be stored whole.
        num_copies: how many are, as stored, the same bytes as one before.
        num_dark: how many are nearly black, with a mean below `DARK`.
    """

    def __init__(self) -> None:
        self.source_bytes = 0
        self.stored_bytes = 0
        self.num_encoded = 0
        self.num_cropped = 0
        self.num_copies = 0
        self.num_dark = 0
        self._digests: set[bytes] = set()
        self._pixels = 0
        self._sums, self._squares = [0, 0, 0], [0, 0, 0]
        self._encoded_pixels = 0
        self._squared_error = 0
        self._sizes: set[tuple[int, int]] = set()  # kept at two entries at most

    def add(self, image: Stored) -> None:
        """Count one image."""
        pixels = image.width * image.height
        self.source_bytes += image.source_bytes
        self.stored_bytes += len(image.data)
        self._pixels += pixels
        for channel in range(3):
            self._sums[channel] += image.sums[channel]
            self._squares[channel] += image.squares[channel]
        self.num_cropped += image.cropped
        digest = hashlib.blake2b(image.data, digest_size=8).digest()
        self.num_copies += digest in self._digests
        self.num_dark += sum(image.sums) < 3 * DARK * pixels
        self._digests.add(digest)
        if image.encoded:
            self.num_encoded += 1
            self._encoded_pixels += pixels
            self._squared_error += image.squared_error
        if len(self._sizes) < 2:
            self._sizes.add((image.height, image.width))

    @property
    def uniform_size(self) -> tuple[int, int] | None:
        """(height, width) in pixels of every image, None when they differ."""
        return min(self._sizes) if len(self._sizes) == 1 else None

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of the stored pixels per channel (RGB), in 0..1."""
        red, green, blue = (total / (255 * self._pixels) for total in self._sums)
        return red, green, blue

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of the stored pixels per channel (RGB), in 0..1."""
        red, green, blue = (self._deviation(channel) for channel in range(3))
        return red, green, blue

    @property
    def psnr(self) -> float | None:
        """Peak signal-to-noise ratio in dB of the images encoded anew, against the pixels that were encoded.

        It is taken from the mean squared error over all their pixels together, 255 being the peak. None when no
        image was encoded anew, or when none lost anything by it.
        """
        if self._squared_error == 0:
            return None
        return 10 * math.log10(255**2 * 3 * self._encoded_pixels / self._squared_error)

    def _deviation(self, channel: int) -> float:
        variance = self._squares[channel] * self._pixels - self._sums[channel] ** 2
        return math.sqrt(variance / (self._pixels**2 * 255**2))
