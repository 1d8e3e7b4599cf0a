"""Packed data sets: raw images are converted once (`convert`), then read by index (`open_dataset`).

On disk a data set is a folder: `dataset.json` (the manifest), `shard-NNNNN.tar` (images named by index) with
`shard-NNNNN.idx` (where each lies, for DALI), or, where images stay where they are, `files.csv` (bytes and format of
each) instead; `images.beton` if it was asked for (the same images for FFCV), `images.csv` (size and origin of every
image), `rejected.csv` (what did not become one) and, where the source has classes, `labels.csv`, which only evaluation
opens.
"""

from tcc_fast.datasets.convert import ConversionReport, convert
from tcc_fast.datasets.manifest import Geometry, Manifest
from tcc_fast.datasets.reader import READERS
from tcc_fast.datasets.store import Dataset, open_dataset

__all__ = ["READERS", "ConversionReport", "Dataset", "Geometry", "Manifest", "convert", "open_dataset"]
