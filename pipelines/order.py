"""Which images make up which batch: a function of (seed, epoch) alone, cut into equal parts for the ranks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tcc_fast.draws import STREAM_AUGMENT, permutation, scalar_key


@dataclass(frozen=True)
class RankShare:
    """Whose part of every batch is meant: that of this process among all that train together."""

    rank: int = 0
    world_size: int = 1


SINGLE = RankShare()
"""The only process there is."""


class EpochOrder:
    """The shuffled order of every epoch, as the index of each batch that this rank gets, and the keys of its views.

    All ranks' parts of a batch together are the same global batch, however many ranks there are. The tail that
    does not fill a global batch is dropped; since every epoch is shuffled anew, it is another one each time.

    Args:
        images: indices of the N images that are trained on.
        batch_size: the global batch, over all ranks.
        seed: of the shuffling.
        rank_share: this rank.
    """

    def __init__(self, images: range, batch_size: int, seed: int, rank_share: RankShare) -> None:
        num_images, ranks = len(images), rank_share.world_size
        if num_images < max(2, ranks):
            raise ValueError(
                f"the data set has {num_images} image(s), but a batch needs at least {max(2, ranks)} for "
                f"{ranks} process(es): train on more images, or with fewer processes"
            )
        if batch_size > num_images:
            quarter = 1 << max(2, num_images // 4).bit_length() - 1  # a power of two
            raise ValueError(
                f"train.batch_size is {batch_size}, but the data set has {num_images} images: "
                f"set train.batch_size={quarter // ranks * ranks or ranks} "
                f"(at most {num_images // ranks * ranks} is possible)"
            )
        if batch_size % ranks:
            raise ValueError(
                f"train.batch_size is {batch_size}, which {ranks} processes cannot share equally: "
                f"set train.batch_size={batch_size // ranks * ranks or ranks}"
            )
        self.images, self.batch_size, self.seed, self.rank_share = images, batch_size, seed, rank_share
        self.batches_per_epoch = num_images // batch_size
        self._epoch: int | None = None

    def indices(self, epoch: int, batch: int) -> Tensor:
        """This rank's part of a batch: (batch_size / world_size,) int64 on the CPU."""
        if self._epoch != epoch:
            self._permutation = self.images.start + permutation(len(self.images), self.seed, epoch)
            self._epoch = epoch
        part = self.batch_size // self.rank_share.world_size
        start = batch * self.batch_size + self.rank_share.rank * part
        return self._permutation[start : start + part]

    def view_keys(self, epoch: int) -> tuple[int, int]:
        """Keys of the first and second view: from them and an image's index, every pipeline makes the same views."""
        first, second = (scalar_key(STREAM_AUGMENT, self.seed, epoch, view) for view in (1, 2))
        return first, second


class Position:
    """Where a pipeline stands; the part of the `Pipeline` protocol that every backend shares."""

    def __init__(self, batches_per_epoch: int) -> None:
        self.batches_per_epoch = batches_per_epoch
        self.epoch = 0
        self.batch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``."""
        self.epoch, self.batch = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Where the next batch will come from."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where ``state`` was taken."""
        self.epoch, self.batch = state["epoch"], state["batch"]
