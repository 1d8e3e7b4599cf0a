"""imagenet-dogs: fifteen breeds of dog among the ImageNet training images, 19 500 photographs. Not Stanford Dogs."""

from __future__ import annotations

from pathlib import Path

from tcc_fast.datasets.ilsvrc import official, open_ilsvrc
from tcc_fast.datasets.official import OfficialReader
from tcc_fast.datasets.reader import Checks, LabelMode

SYNSETS = {
    "n02085936": "Maltese dog",
    "n02086646": "Blenheim spaniel",
    "n02088238": "basset",
    "n02091467": "Norwegian elkhound",
    "n02097130": "giant schnauzer",
    "n02099601": "golden retriever",
    "n02101388": "Brittany spaniel",
    "n02101556": "clumber",
    "n02102177": "Welsh springer spaniel",
    "n02105056": "groenendael",
    "n02105412": "kelpie",
    "n02105855": "Shetland sheepdog",
    "n02107142": "Doberman",
    "n02110958": "pug",
    "n02112137": "chow",
}
OFFICIAL = official("imagenet-dogs", "ImageNet-Dogs", SYNSETS)


def open_reader(src: Path | None, labels: LabelMode, checks: Checks) -> OfficialReader:
    """ImageNet-Dogs.

    Raises:
        ValueError: see `tcc_fast.datasets.ilsvrc.open_ilsvrc`.
    """
    return open_ilsvrc(OFFICIAL, SYNSETS, src, checks)
