"""The manifest reads back, and says what to do where it cannot."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tcc_fast.datasets.manifest import FileEntry, Geometry, Manifest, read_manifest

ENTRY = FileEntry(10, "0" * 64)
MANIFEST = Manifest(
    name="toy",
    num_images=3,
    class_names=("cät", "dog"),
    splits={"all": (0, 3)},
    geometry=Geometry(112, 95, None),
    mean=(0.1, 0.2, 1 / 3),
    std=(0.4, 0.5, 0.6),
    files={"images.csv": ENTRY, "rejected.csv": ENTRY, "shard-00000.tar": ENTRY},
    source={"name": "toy", "counts": {"images": 3}},
    num_rejected=1,
    tool_version="0.0",
)


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(MANIFEST.to_json()), **fields})


@pytest.mark.parametrize(
    "manifest",
    [
        MANIFEST,
        replace(MANIFEST, class_names=None, geometry=Geometry(0, None, (8, 9))),
        replace(MANIFEST, files={**MANIFEST.files, "labels.csv": ENTRY}),
    ],
)
def test_reads_back(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_labels_and_shards() -> None:
    assert not MANIFEST.has_labels
    assert (MANIFEST.indexes, MANIFEST.beton) == ([], None)
    more = replace(MANIFEST, files={**MANIFEST.files, "shard-00000.idx": ENTRY, "images.beton": ENTRY})
    assert (more.shards, more.indexes, more.beton) == (["shard-00000.tar"], ["shard-00000.idx"], "images.beton")
    assert MANIFEST.shards == ["shard-00000.tar"]
    assert MANIFEST.num_bytes == 30


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 2}, r"format_version is 2.*reads version 1.*convert the data set again"),
        ({"format_version": True}, "format_version is True"),
        ({"num_images": 0}, "num_images is 0"),
        ({"num_images": "3"}, "num_images is '3'"),
        ({"class_names": "ab"}, "class_names"),
        ({"splits": {"all": [0, 4]}}, "'all' is not a range"),
        ({"splits": {"all": [2, 2]}}, "'all' is not a range"),
        ({"mean": [0.1, 0.2]}, "'mean.2' is missing"),
        ({"std": [0.1, 0.2, 7]}, "std.2 is 7: input should be less than or equal to 1"),
        ({"geometry": {"short_side": 0, "quality": "best", "uniform_size": None}}, "quality is 'best'"),
        ({"geometry": {"short_side": 0, "quality": None}}, "'geometry.uniform_size' is missing"),
        ({"files": {"../evil": {"bytes": 1, "sha256": "0" * 64}}}, "not a plain file name"),
        ({"files": {"images.csv": {"bytes": -1, "sha256": "0" * 64}}}, "files.images.csv.bytes is -1"),
        ({"files": {}}, "does not list images.csv"),
        ({"source": None}, "source is None"),
        ({"tool_version": 0.1}, "tool_version is 0.1"),
        ({"mean": [0.1, 0.2, float("nan")]}, "mean.2 is nan"),
        ({"name": ["toy"] * 100}, r"name is \['toy',.{1,60}\]: "),
    ],
)
def test_malformed_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Manifest.from_json(changed(**fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_not_a_manifest(text: str) -> None:
    with pytest.raises(ValueError, match="malformed data set manifest"):
        Manifest.from_json(text)


@pytest.mark.parametrize("key", sorted(set(json.loads(MANIFEST.to_json())) - {"format_version"}))
def test_missing_field_is_named(key: str) -> None:
    content = json.loads(MANIFEST.to_json())
    del content[key]
    with pytest.raises(ValueError, match=f"'{key}' is missing"):
        Manifest.from_json(json.dumps(content))


def test_missing_folder_and_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        read_manifest(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"holds no dataset\.json"):
        read_manifest(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        read_manifest(tmp_path / "file")
    (tmp_path / "dataset.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"dataset\.json: malformed.*utf-8"):
        read_manifest(tmp_path)
