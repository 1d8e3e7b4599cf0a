"""The `resident` pipeline's memory: ranks decode a share each, and all have all; only what is trained on is held."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tcc_fast.datasets import open_dataset
from tcc_fast.pipelines import dali_fill, fill
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.decoded import decode
from tcc_fast.pipelines.order import SINGLE, RankShare

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SIDE = (48, 48)
RANKS = 3

SCRIPT = """
import os, sys, warnings
import torch
from tcc_fast.datasets import open_dataset
from tcc_fast.distributed import leave, processes
from tcc_fast.pipelines import decoded, fill
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.order import RankShare

state = processes()
dataset = open_dataset(sys.argv[1], verify=False)
damage, decoded_here = Damage(dataset), []
def decode_into(out, dataset, images, damage):
    decoded_here.extend(images)
    decoded.decode_into(out, dataset, images, damage)
fill.decode_into = decode_into
warnings.simplefilter("ignore")
rank_share = RankShare(state.process_index, state.num_processes)
try:
    images, trouble = fill.fill(dataset, range(1, 46), (48, 48), state.device, rank_share, damage), ""
except ValueError as error:
    images, trouble = torch.empty(0), f"{type(error).__name__}: {error}"
torch.save((images, damage.reasons, decoded_here, trouble), f"{sys.argv[2]}/{state.process_index}.pt")
leave()
os._exit(0)
"""


def fill_by_ranks(data: Path, folder: Path) -> None:
    """Run the script; FOLDER/RANK.pt is what came of it."""
    script = folder / "fill.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={RANKS}", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(script), str(data), str(folder)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def jpegs(folder: Path) -> list[int]:
    """Those of the 45 images that are shared out."""
    return [image for image in np.flatnonzero(~open_dataset(folder).is_png()).tolist() if image >= 1]


def test_ranks_share_the_work_and_each_has_all_images(photos: Path, damaged: Any, tmp_path: Path) -> None:
    """45 images, two of which cannot be decoded: one of the first share, one of the last."""
    bad = {jpegs(photos)[0]: b"", jpegs(photos)[-1]: b"\xff\xd8"}
    dataset = damaged(photos, bad)
    fill_by_ranks(dataset.path, tmp_path)
    damage = Damage(dataset)
    with pytest.warns(RuntimeWarning, match="is left blank"):
        expected = decode(dataset, range(1, 46), SIDE, CPU, damage)
    assert damage.indices == set(bad)
    shares: list[list[int]] = []
    for rank in range(RANKS):
        images, reasons, decoded_here, trouble = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert trouble == ""
        assert torch.equal(images, expected)
        assert reasons == damage.reasons
        shares.append(decoded_here)
    assert [image for share in shares for image in share] == list(range(1, 46))
    assert [len(share) for share in shares] == [15, 15, 15]


@pytest.mark.parametrize("where", ["in one share", "in all"])
def test_too_many_undecodable_images_stop_all_ranks_with_one_sentence(
    photos: Path, damaged: Any, tmp_path: Path, where: str
) -> None:
    """46 images bear 10. No rank waits for one that has given up."""
    some = jpegs(photos)
    bad = some[-11:] if where == "in one share" else [some[i * len(some) // 11] for i in range(11)]
    assert len({(image - 1) // 15 for image in bad}) == (1 if where == "in one share" else RANKS)
    fill_by_ranks(damaged(photos, dict.fromkeys(bad, b"")).path, tmp_path)
    said = [torch.load(tmp_path / f"{rank}.pt", weights_only=True)[3] for rank in range(RANKS)]
    assert all("11 images cannot be decoded, where 10 are borne" in one for one in said)
    assert said[0].startswith("ValueError")


def test_shares_are_all_images_once_and_in_order() -> None:
    for total in (1, 4, 5, 7, 100):
        for ranks in (1, 2, 3, 5):
            parts = [fill.share(total, RankShare(rank, ranks)) for rank in range(ranks)]
            assert [image for part in parts for image in range(total)[part]] == list(range(total))
            sizes = [len(range(total)[part]) for part in parts]
            assert max(sizes) - min(sizes) <= 1


def test_only_the_images_that_are_trained_on_are_held(pipeline: Any, photos: Path) -> None:
    dataset = open_dataset(photos)
    dataset.manifest = dataclasses.replace(dataset.manifest, splits={"late": (20, 44), "all": (0, 46)})
    made = pipeline(dataset, "resident", split="late")
    assert torch.equal(made.images, decode(dataset, range(20, 44), SIDE))


@pytest.mark.parametrize("fails", [False, True])
def test_dali_is_used_on_a_gpu_and_what_it_refuses_is_decoded_without_it(
    frames: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    dataset, asked, empty = open_dataset(frames), [], torch.empty

    def by_dali(out: Tensor, *arguments: Any) -> None:
        asked.append(arguments)
        if fails:
            raise RuntimeError("cannot be decoded")
        out.fill_(1)

    def without(out: Tensor, *arguments: Any) -> None:
        out.fill_(2)

    def filled(images: range, device: str) -> set[int]:
        found = fill.fill(dataset, images, (40, 56), torch.device(device), SINGLE, Damage(dataset))
        assert found.shape == (len(images), 40, 56, 3)
        return set(found.flatten().tolist())

    monkeypatch.setattr(torch, "empty", lambda *shape, device, dtype: empty(*shape, dtype=dtype))  # there is no GPU
    monkeypatch.setattr(dali_fill, "fill_by_dali", by_dali)
    monkeypatch.setattr(fill, "installed", lambda module: True)
    monkeypatch.setattr(fill, "decode_into", without)
    said = (
        pytest.warns(RuntimeWarning, match=r"DALI could not decode the images \(cannot be") if fails else nullcontext()
    )
    with said:
        assert filled(range(24), "cuda") == ({2} if fails else {1})
    assert asked == [(dataset, SINGLE)]
    assert filled(range(12), "cuda") == {2}  # it reads all there is
    assert filled(range(24), "cpu") == {2}
    assert len(asked) == 1
