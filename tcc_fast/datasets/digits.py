"""digits: the 1 797 handwritten digits of 8x8 pixels that scikit-learn bundles. Needs no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tcc_fast.datasets.reader import ArrayReader, Checks, LabelMode

ABOUT = {
    "description": "Test part of the Optical Recognition of Handwritten Digits, as bundled with "
    "scikit-learn; 8x8 pixels, values 0..16 mapped to 0..255 as round-half-up(v * 255 / 16).",
    "licence": "CC BY 4.0 (UCI Machine Learning Repository)",
    "citation": "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI, 1998, doi:10.24432/C50P49",
}


def open_reader(src: Path | None, labels: LabelMode, checks: Checks) -> ArrayReader:
    """1 797 grey images of 8x8 pixels in 10 classes.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("digits comes with scikit-learn; install it with: pip install scikit-learn") from error
    bundle = load_digits()
    levels = bundle.images.astype(np.int64)
    images = ((levels * 255 + 8) // 16).astype(np.uint8)
    return ArrayReader("digits", images, bundle.target.astype(np.int64), tuple("0123456789"), ABOUT)
