"""Several processes, started by Accelerate's launcher, take the steps that one process takes on the global batch."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tcc_fast.config import load_config
from tcc_fast.evaluation.clusters import write_clusters
from tcc_fast.evaluation.evaluate import evaluate
from tcc_fast.runs.checkpoint_folder import find_checkpoint
from tcc_fast.runs.run_state import read_state
from tcc_fast.settings import Config
from tcc_fast.train import train
from tests import elastic, ranks
from tests.conftest import TINY
from tests.method.test_step import fresh_accelerate

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
Results = dict[str, dict[str, Tensor]]


def launcher(num_processes: int, *command: str) -> list[str]:
    """`accelerate launch` of a command. On a machine without GPUs, --multi_gpu means several processes on the CPU."""
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    several = ["--multi_gpu"] if num_processes > 1 else []
    options = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    return [*accelerate, *several, *options, f"--num_processes={num_processes}", *command]


def launch(num_processes: int, *command: str) -> subprocess.CompletedProcess[str]:
    command_line = launcher(num_processes, *command)
    return subprocess.run(command_line, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("alone")
    with fresh_accelerate():
        ranks.run(folder)
    return {path.stem: load_file(path) for path in folder.glob("*.safetensors")}


@pytest.fixture(scope="module", params=[2, 4])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Results]:
    folder = tmp_path_factory.mktemp("together")
    done = launch(request.param, str(Path(ranks.__file__)), str(folder))
    assert done.returncode == 0, done.stderr
    return request.param, {name: load_file(folder / f"{name}.safetensors") for name in ranks.CASES}


def largest(tensor: Tensor) -> float:
    return tensor.double().abs().max().item() if tensor.numel() else 0.0


@pytest.mark.parametrize("case", ranks.CASES)
def test_losses_gradients_and_everything_after_twenty_steps_are_equal(
    alone: Results, together: tuple[int, Results], case: str
) -> None:
    """To 1e-9 of each tensor's largest number in double precision, or of a hundredth of the largest of its kind where
    that is more; in single precision to 2e-3 after twenty steps."""
    number, results = together
    own_statistics = case == ranks.OWN_STATISTICS  # then the running ones are averaged, which one process never does
    one, many = alone[f"{case}-{number}" if own_statistics else case], results[case]
    tolerance = 1e-9 if ranks.CASES[case].get("dtype", torch.float64) == torch.float64 else 2e-3
    assert one.keys() == many.keys()
    averaged = {name for name in one if own_statistics and ("running_" in name or "num_batches" in name)}
    for name in one.keys() - {"shard", "sent"} - averaged:
        assert one[name].shape == many[name].shape, name  # also: the same parameters have no gradient
        kind = [tensor for other, tensor in one.items() if other.split()[0] == name.split()[0]]
        scale = max(largest(one[name]), 0.01 * max(map(largest, kind)))  # some gradients are zero up to rounding
        assert torch.allclose(one[name], many[name], rtol=0, atol=tolerance * scale), name
    assert one["losses"][0].isfinite().all()
    assert len({tuple(row) for row in one["losses"].tolist()}) == ranks.STEPS  # something was trained


@pytest.mark.parametrize("case", ["many-clusters", "long-queue", "short-queue"])
def test_what_is_sent_in_a_step_does_not_grow_with_the_queue(together: tuple[int, Results], case: str) -> None:
    """The formulas of docs/scaling.md; J is not in them. Gradients of θ are beside this."""
    clusters, batch, dim, double = ranks.CASES[case]["K"], ranks.BATCH, ranks.DIM, 8
    channels = 4 + dim  # of the two batch norms
    gathered = batch * dim + batch  # queries, and the weights of their gradients
    gathered += 4 * together[0] * channels
    summed = batch + batch * dim + 3 * clusters * dim + 2 * channels
    expected = [double * number for number in (gathered, summed, batch)]
    assert together[1][case]["sent"].tolist() == expected


@pytest.mark.parametrize("case", ["two-clusters", "long-queue", "short-queue"])
def test_a_rank_holds_its_part_of_q(together: tuple[int, Results], case: str) -> None:
    number, results = together
    length, share = ranks.CASES[case]["J"], ranks.BATCH // number
    assert results[case]["shard"].item() == -(-length // ranks.BATCH) * share


def test_the_number_of_processes_may_change_at_every_resume(digits: Path, tmp_path: Path) -> None:
    """2, 1, 4, 2 processes, 3 steps each, the start of the prototypes among them, and the last three compiled: at
    every change the negatives are bit by bit those that there were, and the end is that of one process that did all."""
    changing, steady = tmp_path / "changing", tmp_path / "steady"
    changing.mkdir()
    steady.mkdir()
    script = str(Path(elastic.__file__))
    for number, compiling in ((2, "off"), (1, "off"), (4, "off"), (2, "on")):
        if number == 1:
            one_process_goes_on(digits, changing, 3)
        else:
            done = launch(number, script, str(digits), str(changing), "3", compiling)
            assert done.returncode == 0, done.stderr
    one_process_goes_on(digits, steady, 12)

    records = [load_file(changing / f"step-{step}.safetensors") for step in (0, 3, 6, 9)]
    assert len(records[0]["before"]) == 0
    assert [len(record["after"]) for record in records] == [700, 700, 700, 700]  # 720 were written by then
    for earlier, later in itertools.pairwise(records):
        assert torch.equal(earlier["after"], later["before"])
    whole = load_file(steady / "step-0.safetensors")
    torch.testing.assert_close(records[-1]["after"], whole["after"], rtol=0, atol=1e-7)
    ends = [load_file(find_checkpoint(folder) / "model.safetensors") for folder in (changing, steady)]
    for name, tensor in ends[1].items():
        torch.testing.assert_close(ends[0][name], tensor, rtol=0, atol=1e-7 * max(1.0, tensor.abs().max().item()))


def one_process_goes_on(data: Path, folder: Path, steps: int) -> None:
    with fresh_accelerate():
        elastic.go_on(data, folder, steps)


def train_command(data: Path, run: Path, *more: str) -> list[str]:
    return ["-m", "tcc_fast", "train", "--config", "digits", "--data", str(data), "--out", str(run), *TINY, *more]


# Small steps of SGD: larger ones, or those of Adam, blow rounding up to a different run. Clusters start at step 21, by
# a k-means: in the graph of a spectral start, rounding decides which of two equally near images is a neighbour.
STEADY = ["optim.name=sgd", "optim.lr=0.0005", "optim.weight_decay=0", "train.epochs=6", "start.at=0.5"]
STEADY += ["start.method=kmeans"]


@pytest.fixture(scope="module")
def pair(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two processes, and what they printed."""
    run = tmp_path_factory.mktemp("pair") / "run"
    done = launch(2, *train_command(digits, run, *STEADY))
    assert done.returncode == 0, done.stderr
    return run, done.stdout


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def test_two_processes_train_as_one_and_one_of_them_writes(
    digits: Path, pair: tuple[Path, str], tmp_path: Path
) -> None:
    """The numbers that are reported. From the start of the prototypes on, rounding may turn its k-means to another
    partition, by the processor, whose losses are alike but not the same; the test above takes
    steps over a start in double."""
    run, printed = pair
    assert printed.count("images into 10 clusters") == 1  # only the main process prints
    with fresh_accelerate():
        train(load_config("digits", [*TINY, *STEADY]), digits, tmp_path / "run")
    many, one = metrics(run), metrics(tmp_path / "run")
    assert [line["step"] for line in many] == list(range(2, 43, 2))
    for here, there in zip(many, one, strict=True):
        assert here.keys() == there.keys()
        assert (here["step"], here["epoch"], here["lr"]) == (there["step"], there["epoch"], there["lr"])
        tolerance = 2e-3 if here["step"] <= 21 else 0.1
        for key in here:
            assert here[key] == pytest.approx(there[key], rel=tolerance, abs=tolerance), (here["step"], key)
    assert many[9]["loss_cluster"] == 0 < many[-1]["loss_cluster"]  # clusters were trained after the start alone


def test_two_processes_evaluate_as_one(pair: tuple[Path, str], tmp_path: Path) -> None:
    run, result = pair[0], tmp_path / "eval.json"
    done = launch(2, "-m", "tcc_fast", "eval", "--ckpt", str(run), "--json", str(result), "--linear-probe")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("TCC (argmax") == 1
    many = json.loads(result.read_text())
    one = evaluate(str(run), linear_probe=True).to_json()
    assert many["n"] == 1797
    assert many["kmeans_features"]["acc"] == pytest.approx(one["kmeans_features"]["acc"], abs=0.02)
    assert many["linear_probe"] == pytest.approx(one["linear_probe"], abs=0.02)
    assert many["acc"] == pytest.approx(one["acc"], abs=0.002)  # an image on a border may fall to either side


def test_two_processes_assign_as_one(pair: tuple[Path, str], tmp_path: Path) -> None:
    run, table = pair[0], tmp_path / "many.csv"
    done = launch(2, "-m", "tcc_fast", "assign", "--ckpt", str(run), "--out", str(table))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1,797 images") == 1
    write_clusters(run, tmp_path / "one.csv")
    many, one = (
        [line.split(",")[:3] for line in file.read_text().splitlines()] for file in (table, tmp_path / "one.csv")
    )
    assert [row[:2] for row in many] == [row[:2] for row in one]
    assert sum(a != b for a, b in zip(many, one, strict=True)) <= 4  # an image on a border may fall to either side


def test_sigterm_stops_two_processes_together_and_they_go_on_as_if_nothing_had_happened(
    digits: Path, pair: tuple[Path, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = train_command(digits, run, *STEADY)
    process = start(2, *command)
    wait_for_metrics(process, run)
    process.send_signal(signal.SIGTERM)  # the launcher hands it to both
    output = process.communicate(timeout=90)[0]
    assert process.returncode != 0
    assert output.count("stopped by SIGTERM; continue with --resume") == 2
    stopped = find_checkpoint(run)
    assert read_state(stopped).step < 42
    done = launch(2, *command, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert metrics(run) == metrics(pair[0])
    ours, calm = find_checkpoint(run), find_checkpoint(pair[0])
    files = sorted(path.name for path in calm.glob("*.safetensors"))
    assert "queue-00001-of-00002.safetensors" in files
    for name in files:
        assert (ours / name).read_bytes() == (calm / name).read_bytes(), name


def test_a_full_disk_at_one_process_is_named_and_nothing_half_written_stays(digits: Path, tmp_path: Path) -> None:
    run, script = tmp_path / "run", Path(__file__).with_name("full_disk.py")
    done = launch(2, str(script), *train_command(digits, run, "start.method=none")[2:])
    assert done.returncode != 0
    assert "step 14 could not be written (rank 1: " in done.stderr
    assert "File too large" in done.stderr
    assert done.stderr.count("Traceback") <= 1  # the launcher's own
    assert list((run / "checkpoints").iterdir()) == []


def test_a_single_process_of_torchrun_is_the_same_run(digits: Path, tiny: Config, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    done = subprocess.run(
        [*command, *train_command(digits, tmp_path / "torchrun")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    with fresh_accelerate():
        train(tiny, digits, tmp_path / "plain")
    for here, there in zip(metrics(tmp_path / "torchrun"), metrics(tmp_path / "plain"), strict=True):
        assert here == pytest.approx(there, rel=1e-3, abs=1e-3)


def test_a_rank_that_dies_ends_the_run_with_a_message(digits: Path, tmp_path: Path) -> None:
    """The launcher notices, and the other rank does not wait for the dead one until its patience is over."""
    run = tmp_path / "run"
    process = start(2, *train_command(digits, run, "train.epochs=500", "start.method=none"))
    try:
        wait_for_metrics(process, run)
        victim = next(pid for pid in children_of(process.pid) if rank_of(pid) == "1")
        os.kill(victim, signal.SIGKILL)
        output = process.communicate(timeout=90)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode not in (0, None)
    assert "Signal 9 (SIGKILL)" in output


def start(num_processes: int, *command: str) -> subprocess.Popen[str]:
    """As `launch`, without waiting for its end; errors are in its output."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command_line = launcher(num_processes, *command)
    return subprocess.Popen(command_line, env=ENVIRONMENT, start_new_session=True, **pipes)


def wait_for_metrics(process: subprocess.Popen[str], run: Path) -> None:
    """Until training is under way."""
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank_of(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((entry[5:].decode() for entry in variables if entry.startswith(b"RANK=")), "")


def test_a_batch_that_the_processes_cannot_share_is_refused(digits: Path, tmp_path: Path) -> None:
    done = launch(2, *train_command(digits, tmp_path / "run", "train.batch_size=255"))
    assert done.returncode != 0
    assert "set train.batch_size=254" in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()
