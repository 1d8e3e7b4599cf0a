"""The bench: what a turn is, when one is repeated, that the figures follow from the turns, and what is shown.

No figure is held against the clock: these machines are not for measuring.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tcc_fast import pipelines
from tcc_fast.bench import DECODE, PIPELINES, Source, Task, compare, idle, openers, rounds, summarise
from tcc_fast.bench.contenders import LongEpochs, open_feed
from tcc_fast.bench.decoding import open_decoding
from tcc_fast.bench.idle import family
from tcc_fast.bench.machine import describe_recipe
from tcc_fast.bench.plot import comparison_svg
from tcc_fast.bench.show import footing, times
from tcc_fast.config import load_config
from tcc_fast.datasets import convert, open_dataset
from tcc_fast.pipelines.order import SINGLE, EpochOrder
from tcc_fast.settings import AugmentConfig
from tests.conftest import TINY, load_tool
from tests.test_cli import type_in

CPU = torch.device("cpu")
BATCH = 32
SETTINGS = [*TINY, "data.workers=2", f"train.batch_size={BATCH}"]


class Calibration:
    """Stands in for the real one: takes as long as it is told, and 1 from then on."""

    def __init__(self, *values: float) -> None:
        self.best, self._values = 1.0, iter(values)

    def __call__(self) -> float:
        return next(self._values, 1.0)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm up with one batch, and do not wait for rest."""
    monkeypatch.setattr(rounds, "WARM_UP", 0.0)
    monkeypatch.setattr(rounds, "wait_until_idle", lambda limit: True)


@pytest.fixture(scope="module")
def task(digits: Path) -> Task:
    return Task(open_dataset(digits), load_config("digits", SETTINGS), CPU)


@pytest.fixture(scope="module")
def result(task: Task) -> dict[str, Any]:
    """Two short rounds of the real thing, as its JSON says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "WARM_UP", 0.0)
        made = compare(task, openers(task, ("resident", "torch")), rounds=2, seconds=0.2, calibrate=Calibration())
    return json.loads(json.dumps(made))


# The figures.


def test_every_contender_has_its_turn_in_every_round_and_the_order_moves_on(result: dict[str, Any]) -> None:
    names = ["torch", "resident", DECODE]
    order = [(turn["round"], turn["place"], turn["contender"]) for turn in result["turns"]]
    assert order == [
        (0, 0, names[0]),
        (0, 1, names[1]),
        (0, 2, names[2]),
        (1, 0, names[1]),
        (1, 1, names[2]),
        (1, 2, names[0]),
    ]
    assert all(turn["kept"] and not turn["disturbed"] for turn in result["turns"])
    assert (result["repeated"], result["skipped"]) == (0, {})


def test_turns_are_of_whole_batches_and_long_enough(result: dict[str, Any]) -> None:
    for turn in result["turns"]:
        assert turn["images"] == turn["batches"] * BATCH
        assert turn["seconds"] >= 0.2
        assert turn["img_per_s"] == pytest.approx(turn["images"] / turn["seconds"])
        if turn["contender"] == "torch":
            assert turn["batches"] % 2 == 0, "its two workers finish in turn"


def test_ratios_are_taken_within_the_rounds(result: dict[str, Any]) -> None:
    rates = {(turn["contender"], turn["round"]): turn["img_per_s"] for turn in result["turns"]}
    figures = result["results"]
    assert set(figures) == {"torch", "resident", DECODE}
    for name, found in figures.items():
        own = [rates[name, number] for number in (0, 1)]
        ratios = [rates[name, number] / rates["torch", number] for number in (0, 1)]
        for figure, values in ((found["img_per_s"], own), (found["ratio"], ratios)):
            assert figure == pytest.approx(
                {"median": statistics.median(values), "min": min(values), "max": max(values)}
            )
    shares = [rates["torch", number] / rates[DECODE, number] for number in (0, 1)]
    assert figures["torch"]["of_ceiling"]["max"] == pytest.approx(max(shares))
    assert figures["resident"]["of_ceiling"] is None, "it does not decode"
    medians = [found["img_per_s"]["median"] for found in figures.values()]
    assert medians == sorted(medians, reverse=True)


def test_what_was_measured_on_what_is_written_down(result: dict[str, Any]) -> None:
    assert result["machine"]["cores"] >= 1
    assert result["machine"]["gpu"] is None
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "torchvision", "DALI", "FFCV", "numba"} <= result["versions"].keys()
    data = result["data"]
    assert (data["images"], data["image_size"], data["batch_size"]) == (1797, 8, BATCH)
    assert (result["rounds"], result["seconds"], result["threads"], result["baseline"]) == (2, 0.2, 2, "torch")
    assert result["contenders"][DECODE]["note"] == "Pillow, 2 threads"
    assert all(about["first_batch_seconds"] > 0 for about in result["contenders"].values())


def test_a_recipe_is_one_line() -> None:
    assert describe_recipe(AugmentConfig(jitter=0.8, hue=0.1, blur=0.5)) == (
        "crop 0.2–1, flip 0.5, jitter 0.4/0.4/0.4/0.1 (p 0.8), grey 0.2, blur 0.5"
    )
    assert describe_recipe(AugmentConfig(rotation=10, zoom=(0.9, 1), jitter=0, grey=0)) == (
        "rotation ±10°, shear ±0°, zoom 0.9–1, crop 0.2–1, flip 0.5"
    )


def test_without_torch_and_decoding_there_are_no_ratios() -> None:
    turn = {"kept": True, "contender": "resident", "round": 0, "img_per_s": 5.0, "disturbed": False}
    (found,) = summarise([turn], "torch", DECODE).values()
    assert (found["ratio"], found["of_ceiling"]) == (None, None)


# A turn.


def counted(**settings: Any) -> tuple[Source, list[int]]:
    """A source of batches of 10 images, and a list that grows by one for each that was taken."""
    taken: list[int] = []

    def batches() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield 10

    return Source(batches(), **settings), taken


@pytest.mark.usefixtures("at_once")
def test_what_was_made_beforehand_is_taken_before_the_clock_starts() -> None:
    source, taken = counted(ahead=3, stride=4)
    (turn,), _ = rounds.run_rounds({"one": source}, 1, 1e-6, CPU, Calibration(), lambda sentence: None)
    assert turn.batches == 4
    assert turn.images == 40
    assert len(taken) == 3 + 1 + turn.batches


@pytest.mark.usefixtures("at_once")
def test_a_turn_during_which_the_machine_was_slow_is_repeated() -> None:
    said: list[str] = []
    sources = {name: counted()[0] for name in ("one", "two")}
    # one: 1 and 1; two: slow after it, slow before it, then good; from then on all is well.
    calibration = Calibration(1, 1, 1, 1.3, 1.3, 1, 1.2, 1.2)
    turns, failed = rounds.run_rounds(sources, 2, 1e-6, CPU, calibration, said.append)
    assert [(turn.contender, turn.round, turn.attempt, turn.kept) for turn in turns] == [
        ("one", 0, 0, True),
        ("two", 0, 0, False),
        ("two", 0, 1, False),
        ("two", 0, 2, True),
        ("two", 1, 0, True),
        ("one", 1, 0, True),
    ]
    assert not failed
    assert said[2] == "round 1 of 2: two, repeated"
    assert [turn.to_json(calibration.best)["disturbed"] for turn in turns] == [False, True, True, False, False, False]


@pytest.mark.usefixtures("at_once")
def test_what_waits_for_a_gpu_alone_is_not_repeated_for_a_slow_cpu() -> None:
    source = counted(repeats=0)[0]
    turns, _ = rounds.run_rounds({"one": source}, 1, 1e-6, CPU, Calibration(1, 2), lambda sentence: None)
    assert [(turn.attempt, turn.kept) for turn in turns] == [(0, True)]


@pytest.mark.usefixtures("at_once")
def test_after_each_round_all_that_was_found_is_kept(task: Task) -> None:
    kept: list[dict[str, Any]] = []
    source = counted()[0]
    result = compare(task, {"torch": lambda: source}, 3, 1e-6, calibrate=Calibration(), keep=kept.append)
    assert [len(found["turns"]) for found in kept] == [1, 2, 3]
    assert kept[-1] == result
    assert kept[0].keys() == result.keys()
    assert kept[0]["results"]["torch"]["img_per_s"]["median"] == kept[0]["turns"][0]["img_per_s"]


def test_the_host_runs_no_further_ahead_of_a_gpu_than_two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, waited = itertools.count(), []

    class Event:
        def record(self, stream: str) -> None:
            self.number = next(recorded)

        def synchronize(self) -> None:
            waited.append(self.number)

    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: "stream")
    pace = rounds.Pace(torch.device("cuda"))
    for _ in range(5):
        pace()
    assert waited == [0, 1, 2]


@pytest.mark.usefixtures("at_once")
def test_a_machine_that_stays_slow_is_not_waited_for(task: Task) -> None:
    calibration = Calibration(*[2.0] * 6)
    source = counted()[0]
    result = compare(task, {"torch": lambda: source}, 2, 1e-6, calibrate=calibration)
    assert [(turn["kept"], turn["disturbed"]) for turn in result["turns"]] == [
        (False, True),
        (False, True),
        (True, True),
        (True, False),
    ]
    assert (result["repeated"], result["results"]["torch"]["disturbed"]) == (2, 1)


@pytest.mark.usefixtures("at_once")
def test_an_earlier_turn_is_judged_by_a_later_better_calibration(task: Task) -> None:
    class Improving(Calibration):
        def __call__(self) -> float:
            self.best = min(self.best, value := next(self._values))
            return value

    source = counted()[0]
    result = compare(task, {"torch": lambda: source}, 2, 1e-6, calibrate=Improving(1, 1, 0.5, 0.5))
    assert [turn["disturbed"] for turn in result["turns"]] == [True, False]
    assert result["calibration_best"] == 0.5


def tired(batches: int) -> Source:
    """A source that has no memory left after so many batches."""

    def make() -> Iterator[int]:
        yield from [10] * batches
        raise RuntimeError("CUDA out of memory")

    return Source(make())


@pytest.mark.usefixtures("at_once")
def test_a_contender_that_fails_takes_no_readings_with_it(task: Task) -> None:
    """Neither the others' nor its own: two batches to warm up, and two for each turn."""
    contenders = {"torch": lambda: tired(4), "resident": lambda: counted()[0], DECODE: lambda: tired(2)}
    result = compare(task, contenders, 3, 1e-9, calibrate=Calibration())
    assert [(turn["contender"], turn["round"]) for turn in result["turns"]] == [
        ("torch", 0),
        ("resident", 0),
        ("resident", 1),
        ("resident", 2),
    ]
    assert result["skipped"] == {
        DECODE: "from round 1 on: RuntimeError: CUDA out of memory",
        "torch": "from round 2 on: RuntimeError: CUDA out of memory",
    }
    assert "torch: left out: from round 2 on: RuntimeError: CUDA out of memory" in footing(result)
    pair = [next(turn for turn in result["turns"] if turn["contender"] == name) for name in ("resident", "torch")]
    ratio = pair[0]["img_per_s"] / pair[1]["img_per_s"]
    assert result["results"]["resident"]["ratio"] == pytest.approx({"median": ratio, "min": ratio, "max": ratio})


@pytest.mark.usefixtures("at_once")
def test_if_all_fail_before_a_turn_is_over_there_is_an_error(task: Task) -> None:
    with pytest.raises(ValueError, match="could be measured: torch: from round 1 on: RuntimeError: CUDA out of memory"):
        compare(task, {"torch": lambda: tired(2)}, 1, 1e-6, calibrate=Calibration())


def test_contenders_without_a_common_round_have_no_ratio(tool: ModuleType, result: dict[str, Any]) -> None:
    turn = {"kept": True, "round": 0, "img_per_s": 5.0, "disturbed": False, "rested": True}
    turns = [turn | {"contender": "torch"}, turn | {"contender": "resident", "round": 1}]
    found = summarise(turns, "torch", None)
    assert found["resident"]["ratio"] is None
    about = {name: {"note": "as asked", "first_batch_seconds": 1.0} for name in found}
    text = tool.record({"memory-32": result | {"turns": turns, "results": found, "contenders": about}}, "2026-01-01")
    assert "| `torch` 5 | 5 |" in text


def test_a_busy_child_is_seen_and_counts() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            (process,) = (process for process in family() if process.pid == child.pid)
            deadline = time.monotonic() + 60
            while idle.cpu_seconds([process]) < 0.1:  # however little of a core it gets
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            child.kill()
    assert idle.cpu_seconds([process]) == 0  # it has ended


def test_two_quiet_intervals_in_a_row_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "INTERVAL", 1e-3)
    readings = iter([0.0, 0.05, 0.05, 0.1, 0.11, 0.11])
    monkeypatch.setattr(idle, "cpu_seconds", lambda processes: next(readings))
    assert idle.wait_until_idle(60)
    assert list(readings) == []


def test_what_never_rests_is_waited_for_no_longer_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "INTERVAL", 1e-3)
    readings = itertools.count(step=0.05)
    monkeypatch.setattr(idle, "cpu_seconds", lambda processes: next(readings))
    assert not idle.wait_until_idle(0.05)


# The contenders.


def test_long_epochs_are_the_same_batches_without_an_end_between() -> None:
    order = EpochOrder(range(20), 6, 3, SINGLE)
    long = LongEpochs(order)
    assert long.batches_per_epoch > 1000
    for batch in range(7):
        assert torch.equal(long.indices(0, batch), order.indices(*divmod(batch, 3)))
    follows = order.indices(*divmod(long.batches_per_epoch, 3))
    assert torch.equal(long.indices(1, 0), follows)


def test_what_is_measured_are_the_images_that_a_training_would_take(task: Task) -> None:
    dataset = open_dataset(task.dataset.path)
    dataset.manifest = dataclasses.replace(dataset.manifest, splits={"late": (900, 1000), "all": (0, 1797)})
    some = dataclasses.replace(task, dataset=dataset, config=load_config("digits", [*SETTINGS, "data.split=late"]))
    pipeline, choice = open_feed(some)
    assert "all 100 images" in choice.reason
    assert {int(index) for batch in pipeline for index in batch.index} <= set(range(900, 1000))
    pipeline.close()


@pytest.mark.usefixtures("at_once")
def test_what_cannot_work_here_is_named_with_its_reason(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "free_memory", lambda device: 0)
    for package in ("nvidia.dali", "ffcv"):
        monkeypatch.setitem(sys.modules, package, None)
    result = compare(task, openers(task), 1, 1e-6, calibrate=Calibration())
    assert set(result["results"]) == {"torch", DECODE}
    assert result["skipped"].keys() == {"resident", "ffcv", "dali"}
    assert result["skipped"]["resident"].startswith("data.pipeline=resident needs")
    assert "pip install nvidia-dali-cuda130" in result["skipped"]["dali"]
    assert "has no beton" in result["skipped"]["ffcv"]


@pytest.mark.usefixtures("at_once")
def test_without_one_figure_there_is_an_error(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "free_memory", lambda device: 0)
    with pytest.raises(ValueError, match=r"^no pipeline could be measured: resident: data\.pipeline=resident needs"):
        compare(task, openers(task, ("resident",)), 1, 1e-6, calibrate=Calibration())


def test_a_batch_that_is_too_large_is_an_error(task: Task) -> None:
    config = load_config("digits", [*SETTINGS, "train.batch_size=2000"])
    with pytest.raises(ValueError, match="batch_size is 2000, but the data set has 1797 images"):
        openers(Task(task.dataset, config, CPU))


@pytest.mark.parametrize("beton", [False, True])
def test_decoding_takes_the_fastest_decoder_that_reads_the_set(beton: bool, tmp_path: Path) -> None:
    if beton and importlib.util.find_spec("ffcv") is None:
        pytest.skip("FFCV is not installed")
    (tmp_path / "raw").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        name = f"{number}.png" if number == 0 else f"{number}.jpg"
        Image.fromarray(pixels).save(tmp_path / "raw" / name)
    formats = "tar,beton" if beton else "tar"
    convert("folder", tmp_path / "set", tmp_path / "raw", short_side=0, workers=1, formats=formats, progress=False)
    dataset = open_dataset(tmp_path / "set")
    source = open_decoding(dataset, EpochOrder(range(6), 4, 0, SINGLE), 2)
    words = "libjpeg-turbo, as FFCV calls it; 1 images are no JPEGs and are only copied" if beton else "Pillow"
    assert source.note == f"{words}, 2 threads"
    assert list(itertools.islice(source.batches, 3)) == [4, 4, 4]
    source.close()


# The command.


def test_the_command_prints_a_table_and_writes_what_it_is_asked_for(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rounds, "WARM_UP", 0.0)
    printed = type_in(
        *("bench", "pipelines", "--data", str(digits), "--rounds", "1", "--seconds", "0.05", "--only", "resident"),
        *("--json", "out.json", "--plot", "out.svg", *TINY, "data.workers=1"),
    )
    assert "digits: 1,797 images of about 8 x 8 (PNGs, 0.1 kB each), two views of 8 px, batches of 256" in printed
    assert "opening resident" in printed
    written = json.loads(Path("out.json").read_text())
    assert set(written["results"]) == {"resident", DECODE}
    assert f"{written['results']['resident']['img_per_s']['median']:,.0f}" in printed
    assert ElementTree.fromstring(Path("out.svg").read_text()).tag.endswith("svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.svg"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--rounds", "0"), "--rounds is 0, but must be at least 1"),
        (("--seconds", "0"), "--seconds is 0, but must be more than 0"),
        (("--seconds", "nan"), "--seconds is nan"),
        (("--only", "dhali"), "no pipeline is called 'dhali'; there are torch, resident, ffcv, dali"),
        (("--plot", "out.png"), "must end in .svg"),
        (("--json", "nowhere/out.json"), "nowhere does not exist"),
        (("data.worker=2",), "did you mean"),
    ],
)
def test_a_mistake_in_the_options_is_said_at_once(digits: Path, options: tuple[str, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        type_in("bench", "pipelines", "--data", str(digits), *options)


def test_the_chart_has_a_bar_for_each_contender_within_its_frame(result: dict[str, Any]) -> None:
    chart = ElementTree.fromstring(comparison_svg(result))
    width = float(chart.attrib["width"])
    bars = [node for node in chart.iter() if node.tag.endswith("rect")][1:]
    assert len(bars) == 3
    lengths = [float(bar.attrib["width"]) for bar in bars]
    assert lengths == sorted(lengths, reverse=True)
    assert all(float(bar.attrib["x"]) + length < width for bar, length in zip(bars, lengths, strict=True))
    texts = {node.text for node in chart.iter()}
    assert {"torch", "resident", DECODE} <= texts


def test_ratios_have_three_digits() -> None:
    assert [times(value) for value in (0.5, 9.994, 12.34, 188.6)] == ["0.50", "9.99", "12.3", "189"]


# The project's record.


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("bench_pipelines")


def fake(
    result: dict[str, Any], rates: dict[str, list[float]], skipped: dict[str, str] | None = None
) -> dict[str, Any]:
    """The result of a run in which the contenders reached these img/s."""
    turns = [
        {"kept": True, "contender": name, "round": number, "img_per_s": rate, "disturbed": False, "rested": True}
        for name, values in rates.items()
        for number, rate in enumerate(values)
    ]
    about = {name: {"note": "as asked", "first_batch_seconds": 1.0} for name in rates}
    return result | {
        "turns": turns,
        "contenders": about,
        "skipped": skipped or {},
        "results": summarise(turns, None, None),
    }


def test_the_record_compares_with_the_faster_loader_and_says_what_is_reached(
    tool: ModuleType, result: dict[str, Any]
) -> None:
    rates = {
        "torch": [100.0, 90.0, 95.0],
        "plain": [110.0, 100.0, 120.0],
        "ffcv": [880.0, 900.0, 840.0],
        "dali": [150.0, 150.0, 150.0],
        DECODE: [1000.0, 2000.0, 2000.0],
    }
    short = tool.with_baseline(fake(result, rates))
    assert short["baseline"] == "plain"
    full = tool.with_baseline(fake(result, {"torch": [10.0], "dali": [20.0], DECODE: [90.0]}, {"ffcv": "no beton"}))
    assert full["baseline"] == "torch"
    text = tool.record({"short-96": short, "full-224": full}, "2026-01-01")
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in text.splitlines() if row.startswith("| ")}
    best = rows["best of `dali`, `ffcv` against the PIL DataLoader, short side 160 → 96"]
    assert best.endswith("| 7× | `ffcv` 8.00× (7.00–9.00) | reached |")
    share = rows["share of decoding alone, short side 160 → 96"]
    assert share.endswith("| 50 % | `ffcv` 45 % (42 %–88 %) | **not reached** |")
    assert rows["the same, original size → 224"].endswith("| 5.5× | `dali` 2.00× | **not reached** |")
    assert rows["`dali` against the PIL DataLoader, original size → 224"].endswith("| 1.8× | 2.00× | reached |")
    assert rows["`resident`, two views, against the PIL DataLoader, 32 px"].endswith("| 45× | | not measured |")
    case = rows["JPEG, short side 160 → 96"]
    assert "| `plain` 110 (100–120) |" in case
    assert "| 880 (840–900), **8.00× (7.00–9.00)** |" in case
    assert "| left out |" in rows["JPEG, original size → 224"]
    assert "- left out: ffcv: no beton" in text


def test_the_photos_are_the_same_each_time_and_as_large_as_photos_are(tool: ModuleType, tmp_path: Path) -> None:
    for number in range(4):
        tool.make_photo(tmp_path, number)
    first = (tmp_path / "000003.jpg").read_bytes()
    tool.make_photo(tmp_path, 3)
    assert (tmp_path / "000003.jpg").read_bytes() == first
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert 55_000 < statistics.mean(sizes) < 75_000


def test_data_are_made_once(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = tool.CASES["memory-32"]
    made = tool.make_set(case, 1, 95, tmp_path, 1)
    assert open_dataset(made).manifest.geometry.uniform_size == (32, 32)
    assert len(open_dataset(made)) == tool.TINY_EACH
    monkeypatch.setattr(tool, "convert", None)
    monkeypatch.setattr(tool, "MAKERS", {})
    assert tool.make_set(case, 1, 95, tmp_path, 1) == made


@pytest.mark.parametrize("from_memory", [False, True])
def test_the_plain_loader_makes_two_views_of_each_image(tool: ModuleType, task: Task, from_memory: bool) -> None:
    config = load_config("digits", [*TINY, "data.workers=0", "train.batch_size=8"])
    source = tool.open_plain(Task(task.dataset, config, CPU, long_epochs=True), from_memory)
    assert list(itertools.islice(source.batches, 3)) == [8, 8, 8]
    source.close()


def test_every_case_is_of_known_pipelines_and_every_goal_of_a_case(tool: ModuleType) -> None:
    for case in tool.CASES.values():
        assert set(case.pipelines) <= set(PIPELINES)
    for goal in tool.GOALS:
        assert set(goal.pipelines) <= set(tool.CASES[goal.case].pipelines)
