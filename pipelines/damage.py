"""Images that turn out to be undecodable while a run is under way: reported, counted, left blank."""

from __future__ import annotations

import warnings

from tcc_fast.datasets import Dataset
from tcc_fast.notice import Notice

FEW = 10
"""So many undecodable images are borne in the smallest data set."""
SHARE = 0.01
"""Of a larger one, this share."""


class Damage:
    """The undecodable images met so far. Their views are blank: all zeros, the mean colour.

    `open_dataset` compares checksums (of sets up to 2 GiB), so that this is rare: a disk that fails under way, or
    a large set that changed after conversion.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.reasons: dict[int, str] = {}
        """Why, by index."""

    @property
    def indices(self) -> set[int]:
        """Indices of the images that could not be decoded."""
        return set(self.reasons)

    def note(self, index: int, why: str) -> None:
        """Report an image, once.

        Raises:
            ValueError: there are now too many for a training that is worth anything.
        """
        if index in self.reasons:
            return
        self.reasons[index] = why
        count, limit = len(self.reasons), max(FEW, int(SHARE * len(self.dataset)))
        if count > limit:
            raise ValueError(
                f"{self.dataset.path}: {count} images cannot be decoded, where {limit} are borne, the last one "
                f"image {index} ({why}); check the disk and convert the data set again"
            )
        warnings.warn(
            f"{self.dataset.path}: image {index} cannot be decoded and is left blank ({why}); "
            f"{count} so far, {limit} are borne",
            Notice,
            stacklevel=2,
        )
