"""What is added up over all stored pictures. Whole numbers until the last step: their order cannot matter."""

from __future__ import annotations

import math

from tcc_fast.datasets.encode import Stored


class Totals:
    """Sums over the pictures given to `add`.

    Attributes:
        source_bytes: bytes of the pictures in the source.
        stored_bytes: bytes of the same pictures as stored, without the headers of the tar.
        num_encoded: how many were encoded anew as JPEG.
    """

    def __init__(self) -> None:
        self.source_bytes = 0
        self.stored_bytes = 0
        self.num_encoded = 0
        self._pixels = 0
        self._sums, self._squares = [0, 0, 0], [0, 0, 0]
        self._encoded_pixels = 0
        self._squared_error = 0
        self._sizes: set[tuple[int, int]] = set()  # kept at two entries at most
        self._extensions: set[str] = set()

    def add(self, picture: Stored) -> None:
        """Count one picture."""
        pixels = picture.width * picture.height
        self.source_bytes += picture.source_bytes
        self.stored_bytes += len(picture.data)
        self._pixels += pixels
        for channel in range(3):
            self._sums[channel] += picture.sums[channel]
            self._squares[channel] += picture.squares[channel]
        if picture.encoded:
            self.num_encoded += 1
            self._encoded_pixels += pixels
            self._squared_error += picture.squared_error
        if len(self._sizes) < 2:
            self._sizes.add((picture.height, picture.width))
        self._extensions.add(picture.extension)

    @property
    def encoding(self) -> str:
        """One of `tcc_fast.datasets.manifest.ENCODINGS`."""
        return "mixed" if len(self._extensions) > 1 else {"png": "png", "jpg": "jpeg"}[min(self._extensions)]

    @property
    def uniform_size(self) -> tuple[int, int] | None:
        """(height, width) in pixels of every picture, None when they differ."""
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
        """Peak signal-to-noise ratio in dB of the pictures encoded anew, against the pixels that were encoded.

        It is taken from the mean squared error over all their pixels together, 255 being the peak. None when no
        picture was encoded anew, or when none lost anything by it.
        """
        if self._squared_error == 0:
            return None
        return 10 * math.log10(255**2 * 3 * self._encoded_pixels / self._squared_error)

    def _deviation(self, channel: int) -> float:
        variance = self._squares[channel] * self._pixels - self._sums[channel] ** 2
        return math.sqrt(variance / (self._pixels**2 * 255**2))
