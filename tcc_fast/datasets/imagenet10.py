"""imagenet10: ten synsets of the ImageNet training images, 13 000 photographs."""

from __future__ import annotations

from pathlib import Path

from tcc_fast.datasets.ilsvrc import official, open_ilsvrc
from tcc_fast.datasets.official import OfficialReader
from tcc_fast.datasets.reader import Checks, LabelMode

SYNSETS = {
    "n02056570": "king penguin",
    "n02085936": "Maltese dog",
    "n02128757": "snow leopard",
    "n02690373": "airliner",
    "n02692877": "airship",
    "n03095699": "container ship",
    "n04254680": "soccer ball",
    "n04285008": "sports car",
    "n04467665": "trailer truck",
    "n07747607": "orange",
}
OFFICIAL = official("imagenet10", "ImageNet-10", SYNSETS)


def open_reader(src: Path | None, labels: LabelMode, checks: Checks) -> OfficialReader:
    """ImageNet-10.

    Raises:
        ValueError: see `tcc_fast.datasets.ilsvrc.open_ilsvrc`.
    """
    return open_ilsvrc(OFFICIAL, SYNSETS, src, checks)
