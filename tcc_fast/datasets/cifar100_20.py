"""cifar100-20: CIFAR-100's 60 000 photographs of 32x32 pixels with their 20 superclasses ("coarse labels")."""

from __future__ import annotations

from pathlib import Path

from tcc_fast.datasets.cifar import HOME, MATLAB, CifarFiles, open_cifar
from tcc_fast.datasets.official import Archive, Official, OfficialReader
from tcc_fast.datasets.reader import Checks, LabelMode

BATCHES = {"train": "train", "test": "test"}
OFFICIAL = Official(
    name="cifar100-20",
    title="CIFAR-100",
    home=HOME,
    fetch="cifar-100-python.tar.gz or cifar-100-binary.tar.gz (169 MB)",
    archives=(
        Archive("cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85"),
        Archive("cifar-100-binary.tar.gz", 168_513_733, "03b5dce01913d631647c71ecec9e9cb8"),
    ),
    folders=("cifar-100-python", "cifar-100-binary"),
    is_extracted=lambda folder: any((folder / f"{name}{end}").is_file() for name in BATCHES for end in ("", ".bin")),
    mistakes=(
        MATLAB,
        (
            r"(^|/)cifar-10[-.]|(^|/)(data_batch_\d|test_batch|batches\.meta)",
            "that is CIFAR-10, which is converted with: tcc-fast convert cifar10",
        ),
    ),
    per_class={"train": 2500, "test": 500},
    about={
        "description": "CIFAR-100 with its 20 superclasses: training, then test images; 32x32 pixels.",
        "licence": None,
        "citation": "A. Krizhevsky: Learning multiple layers of features from tiny images, 2009",
    },
)
LAYOUT = CifarFiles(
    official=OFFICIAL,
    class_names=(
        "aquatic_mammals",
        "fish",
        "flowers",
        "food_containers",
        "fruit_and_vegetables",
        "household_electrical_devices",
        "household_furniture",
        "insects",
        "large_carnivores",
        "large_man-made_outdoor_things",
        "large_natural_outdoor_scenes",
        "large_omnivores_and_herbivores",
        "medium_mammals",
        "non-insect_invertebrates",
        "people",
        "reptiles",
        "small_mammals",
        "trees",
        "vehicles_1",
        "vehicles_2",
    ),
    batches=BATCHES,
    key="coarse_labels",
    label_bytes=2,  # coarse, fine
    meta=("meta", "coarse_label_names", "coarse_label_names.txt"),
    md5s={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
)


def open_reader(src: Path | None, labels: LabelMode, checks: Checks) -> OfficialReader:
    """CIFAR-100 with 20 superclasses.

    Raises:
        ValueError: see `tcc_fast.datasets.cifar.open_cifar`.
    """
    return open_cifar(LAYOUT, src, checks)
