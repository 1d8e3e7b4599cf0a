"""Published results as data, so that tools can show them beside a run's own.

All are in percent, on the images that the field trains and evaluates on (see `tcc_fast.datasets`). A figure of
our run is comparable only for the whole data set, without labels in training or in the choice of settings.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One method on one data set, in percent.

    Attributes:
        method: its name.
        acc, nmi, ari: accuracy after the best one-to-one match, normalised mutual information, adjusted Rand index.
        own: which of the three are from the method's own paper, as far as we hold it; the others are from the
            comparison tables of later papers.
    """

    method: str
    acc: float
    nmi: float
    ari: float
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedResults:
    """What is published for one data set of the field.

    Attributes:
        images, classes: how many.
        image_size: side of the views that most papers train on, in pixels.
        tcc: "You Never Cluster Alone" (Shen et al., NeurIPS 2021); None: we know of no figure.
        best: the best from scratch (no pre-training) that we know of.
        caution: what else must be known to compare with them; a sentence.
    """

    images: int
    classes: int
    image_size: int
    tcc: Published | None
    best: Published
    caution: str = ""


RESULTS: dict[str, PublishedResults] = {
    "cifar10": PublishedResults(
        60_000,
        10,
        32,
        Published("TCC", 90.6, 79.0, 73.3, ("acc", "nmi")),
        Published("ProPos+DCBoost", 96.0, 91.1, 91.6),
    ),
    "cifar100-20": PublishedResults(
        60_000,
        20,
        32,
        Published("TCC", 49.1, 47.9, 31.2, ("acc",)),
        Published("ProPos+DCBoost", 63.9, 64.5, 49.2),
    ),
    "stl10": PublishedResults(
        13_000,
        10,
        96,
        Published("TCC", 81.4, 73.2, 68.9, ("acc",)),
        Published("SPICE", 93.8, 87.2, 87.0),
        "SPICE, and perhaps TCC, also trained on the 100,000 unlabelled images.",
    ),
    "imagenet10": PublishedResults(
        13_000,
        10,
        96,
        Published("TCC", 89.7, 84.8, 82.5, ("acc", "nmi")),
        Published("SCAN+DCBoost", 97.8, 94.2, 95.2),
    ),
    "imagenet-dogs": PublishedResults(
        19_500,
        15,
        96,
        Published("TCC", 59.5, 55.4, 41.7, ("acc", "nmi")),
        Published("CoNR+DCBoost", 80.7, 74.6, 68.3),
    ),
    "tiny-imagenet": PublishedResults(100_000, 200, 64, None, Published("SPICE", 30.5, 44.9, 16.3)),
}
"""By the name that `tcc-fast convert` takes and the manifest holds."""
