"""The indexes beside the tar shards: as DALI's own tool writes them, and DALI reads every image by them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tcc_fast.datasets import convert, open_dataset


@pytest.fixture
def packed(tmp_path: Path, photos: Path) -> Path:
    """Images of both kinds, in several shards."""
    return convert("folder", tmp_path / "out", photos, workers=1, short_side=48, shard_bytes=20_000).path


def test_one_line_an_image(packed: Path) -> None:
    dataset = open_dataset(packed)
    manifest = dataset.manifest
    assert len(manifest.shards) > 1
    assert manifest.indexes == [name.replace(".tar", ".idx") for name in manifest.shards]
    images = []
    for shard, index in zip(manifest.shards, manifest.indexes, strict=True):
        first, *lines = (packed / index).read_text().splitlines()
        assert first == f"v1.2 {len(lines)}"
        content = (packed / shard).read_bytes()
        for line in lines:
            extension, offset, size, name = line.split(" ")
            data = content[int(offset) : int(offset) + int(size)]
            images.append((name, data))
            assert name.endswith(f".{extension}")
    kinds = ["png" if png else "jpg" for png in dataset.is_png()]
    assert images == [(f"{i:09d}.{kind}", dataset.read(i)) for i, kind in enumerate(kinds)]


def test_same_as_wds2idx(packed: Path, tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx")
    manifest = open_dataset(packed).manifest
    for shard, index in zip(manifest.shards, manifest.indexes, strict=True):
        with wds2idx.IndexCreator(str(packed / shard), str(tmp_path / "wanted"), verbose=False) as creator:
            creator.create_index()
        assert (packed / index).read_text() == (tmp_path / "wanted").read_text()


def test_dali_reads_every_image_in_index_order(packed: Path) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import Pipeline, fn

    dataset = open_dataset(packed)
    pipeline = Pipeline(batch_size=len(dataset), num_threads=1, device_id=None)
    with pipeline:
        images = fn.readers.webdataset(
            paths=[str(packed / name) for name in dataset.manifest.shards],
            index_paths=[str(packed / name) for name in dataset.manifest.indexes],
            ext=["jpg;png"],
            missing_component_behavior="error",
        )
        pipeline.set_outputs(images)
    pipeline.build()
    (batch,) = pipeline.run()
    found = [np.asarray(batch.at(index)).tobytes() for index in range(len(dataset))]
    assert found == [dataset.read(index) for index in range(len(dataset))]


def test_sets_of_versions_without_indexes_still_open(packed: Path) -> None:
    manifest = json.loads((packed / "dataset.json").read_text())
    for name in open_dataset(packed).manifest.indexes:
        (packed / name).unlink()
        del manifest["files"][name]
    (packed / "dataset.json").write_text(json.dumps(manifest))
    dataset = open_dataset(packed)
    assert dataset.manifest.indexes == []
    dataset.decode(len(dataset) - 1)
