"""cifar10: 60 000 photographs of 32x32 pixels in 10 classes: the training images, then the test images."""

from __future__ import annotations

from pathlib import Path

from tcc_fast.datasets.cifar import HOME, MATLAB, CifarFiles, open_cifar
from tcc_fast.datasets.official import Archive, Official, OfficialReader
from tcc_fast.datasets.reader import Checks, LabelMode

BATCHES = {**{f"data_batch_{number}": "train" for number in range(1, 6)}, "test_batch": "test"}
OFFICIAL = Official(
    name="cifar10",
    title="CIFAR-10",
    home=HOME,
    fetch="cifar-10-python.tar.gz or cifar-10-binary.tar.gz (170 MB)",
    archives=(
        Archive("cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a"),
        Archive("cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),
    ),
    folders=("cifar-10-batches-py", "cifar-10-batches-bin"),
    is_extracted=lambda folder: any((folder / f"{name}{end}").is_file() for name in BATCHES for end in ("", ".bin")),
    mistakes=(
        MATLAB,
        (
            r"(^|/)cifar-100|(^|/)(fine|coarse)_label_names\.txt$|(^|/)(train|test)(\.bin)?$",
            "that is CIFAR-100, which is converted with: tcc-fast convert cifar100-20",
        ),
    ),
    per_class={"train": 5000, "test": 1000},
    about={
        "description": "CIFAR-10: training batches 1 to 5, then the test batch; 32x32 pixels.",
        "licence": None,
        "citation": "A. Krizhevsky: Learning multiple layers of features from tiny images, 2009",
    },
)
LAYOUT = CifarFiles(
    official=OFFICIAL,
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    batches=BATCHES,
    key="labels",
    label_bytes=1,
    meta=("batches.meta", "label_names", "batches.meta.txt"),
    md5s={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
)


def open_reader(src: Path | None, labels: LabelMode, checks: Checks) -> OfficialReader:
    """CIFAR-10.

    Raises:
        ValueError: see `tcc_fast.datasets.cifar.open_cifar`.
    """
    return open_cifar(LAYOUT, src, checks)
