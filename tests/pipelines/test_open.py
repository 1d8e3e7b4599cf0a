"""`open_pipeline`: which backend, why, and when not."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tcc_fast import pipelines
from tcc_fast.cores import default_workers
from tcc_fast.datasets import Dataset, open_dataset
from tcc_fast.pipelines import RankShare, choose_pipeline, memory, open_pipeline
from tcc_fast.pipelines.installed import installed
from tcc_fast.pipelines.memory import free_memory
from tcc_fast.pipelines.resident import ResidentPipeline
from tcc_fast.settings import Config

CPU = torch.device("cpu")
NEEDED = 46 * 3 * 48 * 48
"""Bytes of the photos, stored at 48 x 48."""
NAME = "images.beton"

Configure = Callable[..., Config]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`machine(free_memory, "ffcv", "nvidia.dali")`: as if there were so much memory, and these packages."""

    def pretend(free: int, *packages: str) -> None:
        def import_ffcv() -> None:
            if "ffcv" not in packages:
                raise ValueError("FFCV cannot be imported")

        monkeypatch.setattr(pipelines, "free_memory", lambda device: free)
        monkeypatch.setattr(pipelines, "installed", lambda module: module in packages)
        monkeypatch.setattr(pipelines, "import_ffcv", import_ffcv)

    return pretend


def with_beton(folder: Path, there: bool) -> Dataset:
    """As if the data set had been converted with a beton, or without."""
    dataset = open_dataset(folder, verify=False)
    others = {name: entry for name, entry in dataset.manifest.files.items() if name != NAME}
    beton = {NAME: next(iter(others.values()))} if there else {}
    dataset.manifest = dataclasses.replace(dataset.manifest, files=others | beton)
    return dataset


def test_auto_takes_resident_if_it_fits_into_half_of_the_free_memory(
    photos: Path, configure: Configure, machine: Callable[..., None]
) -> None:
    dataset = with_beton(photos, True)
    machine(2 * NEEDED, "ffcv", "nvidia.dali")
    pipeline = open_pipeline(dataset, configure("auto"), CPU)
    assert isinstance(pipeline, ResidentPipeline)
    assert (
        choose_pipeline(dataset, configure("auto"), CPU).sentence
        == "pipeline resident: all 46 images decoded once, 0 MiB of 1 MiB free on cpu"
    )
    assert pipeline.images.shape == (46, 48, 48, 3)
    assert pipeline.images.numel() == NEEDED
    pipeline.close()
    assert pipeline.images.untyped_storage().nbytes() == 0
    machine(2 * NEEDED - 1, "ffcv", "nvidia.dali")
    assert choose_pipeline(dataset, configure("auto"), CPU).name != "resident"
    dataset.manifest = dataclasses.replace(dataset.manifest, splits={"some": (1, 46), "all": (0, 46)})
    some = choose_pipeline(dataset, configure("auto", split="some"), CPU)
    assert some.sentence.startswith("pipeline resident: all 45 images decoded once")


TOO_LARGE = "resident would need 0 MiB of 1 MiB free on cpu"
NEITHER = "and DALI is not installed: both are many times faster"


@pytest.mark.parametrize(
    ("beton", "packages", "name", "reason"),
    [
        (True, ["ffcv", "nvidia.dali"], "ffcv", TOO_LARGE),
        (True, ["ffcv"], "ffcv", TOO_LARGE),
        (True, ["nvidia.dali"], "dali", f"{TOO_LARGE}; FFCV cannot be imported"),
        (False, ["ffcv", "nvidia.dali"], "dali", f"{TOO_LARGE}; no beton"),
        (False, ["ffcv"], "torch", f"{TOO_LARGE}; no beton, {NEITHER}"),
        (True, [], "torch", f"{TOO_LARGE}; FFCV cannot be imported, {NEITHER}"),
        (False, [], "torch", f"{TOO_LARGE}; no beton, {NEITHER}"),
    ],
)
def test_auto_takes_the_fastest_of_what_is_there_if_resident_does_not_fit(
    photos: Path,
    configure: Configure,
    machine: Callable[..., None],
    beton: bool,
    packages: list[str],
    name: str,
    reason: str,
) -> None:
    machine(2 * NEEDED - 1, *packages)
    choice = choose_pipeline(with_beton(photos, beton), configure("auto"), CPU)
    assert (choice.name, choice.reason) == (name, reason)


BACKENDS = ["resident", "ffcv", "dali", "torch"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_that_is_asked_for_is_taken(pipeline: Any, photos: Path, configure: Configure, backend: str) -> None:
    pipeline(photos, backend).close()  # skips what is not installed
    made = open_pipeline(open_dataset(photos), configure(backend), CPU)
    assert type(made).__name__ == f"{backend.capitalize()}Pipeline"
    why = choose_pipeline(open_dataset(photos), configure(backend), CPU).sentence
    assert why.startswith(f"pipeline {backend}: " + ("all 46 images" if backend == "resident" else "as asked"))
    made.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_auto_takes_is_opened(
    pipeline: Any, photos: Path, configure: Configure, machine: Callable[..., None], backend: str
) -> None:
    pipeline(photos, backend).close()  # skips what is not installed
    packages = {"dali": ["nvidia.dali"], "ffcv": ["ffcv"]}.get(backend, [])
    machine(1 << 30 if backend == "resident" else NEEDED, *packages)
    made = open_pipeline(open_dataset(photos), configure("auto"), CPU)
    assert type(made).__name__ == f"{backend.capitalize()}Pipeline"
    made.close()


@pytest.mark.parametrize(("backend", "cache"), [("ffcv", "os"), ("ffcv", "process")])
def test_the_cache_of_ffcv_is_the_one_that_is_asked_for(pipeline: Any, photos: Path, backend: str, cache: str) -> None:
    made = pipeline(photos, backend, 1, cache)
    manager = type(made._ahead._loader.memory_manager).__name__
    assert manager == {"os": "OSCacheManager", "process": "ProcessCacheManager"}[cache]


@pytest.mark.parametrize(("workers", "expected"), [(1, 1), (3, 3), (None, default_workers()), (0, 1)])
@pytest.mark.parametrize("backend", ["resident", "ffcv", "dali"])
def test_workers_are_threads(pipeline: Any, photos: Path, backend: str, workers: int | None, expected: int) -> None:
    """At least one: none at all would do nothing."""
    made = pipeline(photos, backend, workers)
    found = {
        "resident": lambda: made._maker.threads.count,
        "dali": lambda: made.threads,
        "ffcv": lambda: made._threads.count,
    }[backend]()
    assert found == expected


def test_installed_says_whether_a_package_is_there_and_imports_none() -> None:
    before = set(sys.modules)
    assert installed("torch")
    assert installed("xml.dom")
    assert not installed("no_such_package")
    assert not installed("no_such_package.inside")
    assert not installed("torch.no_such_module")
    assert set(sys.modules) - before <= {"xml", "xml.dom"}


def test_resident_that_does_not_fit_says_what_to_choose(
    photos: Path, configure: Configure, machine: Callable[..., None]
) -> None:
    machine(NEEDED, "ffcv", "nvidia.dali")
    dataset = open_dataset(photos)
    with pytest.raises(ValueError, match=r"needs 0 MiB of 0 MiB free on cpu.*50%.*data.pipeline=auto.*--short-side"):
        open_pipeline(dataset, configure("resident"), CPU)


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_batches_that_cannot_be_made_are_refused_before_anything_is_decoded(
    photos: Path, configure: Configure, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(Dataset, "read", read)
    dataset = open_dataset(photos)
    with pytest.raises(ValueError, match=r"batch_size is 47, but the data set has 46 images: set train.batch_size=8 "):
        open_pipeline(dataset, configure(backend, batch_size=47), CPU)
    with pytest.raises(ValueError, match=r"batch_size is 8, which 3 processes .*: set train.batch_size=6$"):
        open_pipeline(dataset, configure(backend, batch_size=8), CPU, RankShare(0, 3))


def test_free_memory_is_a_number_of_bytes() -> None:
    with open("/proc/meminfo", encoding="ascii") as file:
        total = next(int(line.split()[1]) for line in file if line.startswith("MemTotal:")) * 1024
    assert 2**20 < free_memory(CPU) <= total


def test_on_a_gpu_what_torch_keeps_to_use_again_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"mem_get_info": (5, 100), "memory_reserved": 40, "memory_allocated": 30}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device("cuda")) == 5 + 40 - 30


VERSION_2 = ("0::", "", "memory.max", "memory.current", "", "max")
VERSION_1 = ("9:cpu,memory:", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_", str(2**63 - 4096))


@pytest.mark.parametrize(("line", "base", "limit", "used", "prefix", "unlimited"), [VERSION_2, VERSION_1])
@pytest.mark.parametrize("group", ["", "jobs/job_1/step_0"])
@pytest.mark.parametrize("said", ["/jobs/job_1/step_0", "/", "/docker/0a1b", "/../../jobs"])
def test_free_memory_heeds_the_limits_of_control_groups(
    line: str, base: str, limit: str, used: str, prefix: str, unlimited: str, group: str, said: str, tmp_path: Path
) -> None:
    """Of either version, the process's own and those above; copies of files that were read are not in the way."""
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text(f"3:cpuset:/elsewhere\n{line}{said}\n")

    def left() -> int:
        return memory._left_in_control_groups(root, own)

    assert left() == sys.maxsize  # no control groups
    folder = root / base / group
    folder.mkdir(parents=True)
    (folder / used).write_text("800\n")
    (folder / "memory.stat").write_text(f"anon 100\n{prefix}inactive_file 420\n{prefix}active_file 80\nshmem 7\n")
    (folder / limit).write_text(f"{unlimited}\n")
    assert left() > 2**62
    concerns_us = not group or said == f"/{group}"
    (folder / limit).write_text("1000\n")
    assert left() == (1000 - (800 - 500) if concerns_us else sys.maxsize)
    (folder / limit).write_text("200\n")
    assert left() == (0 if concerns_us else sys.maxsize)
    assert memory._left_in_control_groups(root, tmp_path / "no such file") == sys.maxsize


def test_the_least_of_nested_limits_counts(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/jobs/job_1\n")
    for folder, limit in (("", "max"), ("jobs", "500"), ("jobs/job_1", "900")):
        (tmp_path / folder).mkdir(exist_ok=True)
        for file, content in (("memory.max", limit), ("memory.current", "100"), ("memory.stat", "anon 100")):
            (tmp_path / folder / file).write_text(f"{content}\n")
    assert memory._left_in_control_groups(tmp_path, tmp_path / "own") == 400


def test_processes_of_a_machine_share_its_memory(
    photos: Path, configure: Configure, machine: Callable[..., None]
) -> None:
    machine(4 * NEEDED)
    assert choose_pipeline(with_beton(photos, False), configure("auto"), CPU, sharing=2).name == "resident"
    assert choose_pipeline(with_beton(photos, False), configure("auto"), CPU, sharing=3).name == "torch"


def test_a_process_cache_that_does_not_fit_is_refused(
    pipeline: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ffcv_views = pytest.importorskip("tcc_fast.pipelines.ffcv_views")
    monkeypatch.setattr(ffcv_views, "free_memory", lambda device: 1 << 20)
    with pytest.raises(ValueError, match=r"ffcv_cache=process would read all .* choose data.ffcv_cache=os"):
        pipeline(photos, "ffcv", ffcv_cache="process")


def test_each_process_of_a_machine_has_a_process_cache_of_its_own(
    pipeline: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ffcv_views = pytest.importorskip("tcc_fast.pipelines.ffcv_views")
    size = (photos / open_dataset(photos).manifest.beton).stat().st_size
    monkeypatch.setattr(ffcv_views, "free_memory", lambda device: 5 * size)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    pipeline(photos, "ffcv", ffcv_cache="process")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="into memory by each of 3 processes"):
        pipeline(photos, "ffcv", ffcv_cache="process")
