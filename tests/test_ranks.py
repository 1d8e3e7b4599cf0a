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

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tcc_fast.checkpoint import find_checkpoint
from tcc_fast.evaluate import evaluate
from tests import elastic, ranks
from tests.conftest import TINY
from tests.test_step import fresh_accelerate

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
    return subprocess.run(command_line, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("alone")
    with fresh_accelerate():
        ranks.run(folder)
    return {name: load_file(folder / f"{name}.safetensors") for name in ranks.CASES}


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
    one, many = alone[case], together[1][case]
    tolerance = 1e-9 if ranks.CASES[case].get("dtype", torch.float64) == torch.float64 else 2e-3
    assert one.keys() == many.keys()
    for name in one.keys() - {"shard", "sent"}:
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
    summed = batch + batch * dim + 3 * clusters * dim + (4 + 2) * channels
    expected = [double * number for number in (gathered, summed, batch)]
    assert together[1][case]["sent"].tolist() == expected


@pytest.mark.parametrize("case", ["two-clusters", "long-queue", "short-queue"])
def test_a_rank_holds_its_part_of_q(together: tuple[int, Results], case: str) -> None:
    number, results = together
    length, share = ranks.CASES[case]["J"], ranks.BATCH // number
    assert results[case]["shard"].item() == -(-length // ranks.BATCH) * share


def test_the_number_of_processes_may_change_at_every_resume(digits: Path, tmp_path: Path) -> None:
    """2, 1, 4, 2 processes, 3 steps each: at every change the negatives are bit by bit those that there were, and the
    end is that of one process that did all twelve steps, up to single precision."""
    changing, steady = tmp_path / "changing", tmp_path / "steady"
    changing.mkdir()
    steady.mkdir()
    script = str(Path(elastic.__file__))
    for number in (2, 1, 4, 2):
        done = launch(number, script, str(digits), str(changing), "3")
        assert done.returncode == 0, done.stderr
    done = launch(1, script, str(digits), str(steady), "12")
    assert done.returncode == 0, done.stderr

    records = [load_file(changing / f"step-{step}.safetensors") for step in (0, 3, 6, 9)]
    assert len(records[0]["before"]) == 0
    assert [len(record["after"]) for record in records] == [700, 700, 700, 700]  # 720 were written by then
    for earlier, later in itertools.pairwise(records):
        assert torch.equal(earlier["after"], later["before"])
    whole = load_file(steady / "step-0.safetensors")
    torch.testing.assert_close(records[-1]["after"], whole["after"], rtol=0, atol=2e-3)
    ends = [load_file(find_checkpoint(folder) / "model.safetensors") for folder in (changing, steady)]
    for name, tensor in ends[1].items():
        torch.testing.assert_close(ends[0][name], tensor, rtol=0, atol=5e-3 * max(1.0, tensor.abs().max().item()))


def train_command(data: Path, run: Path, *more: str) -> list[str]:
    return ["-m", "tcc_fast", "train", "--config", "digits", "--data", str(data), "--out", str(run), *TINY, *more]


def test_a_run_of_two_processes_is_written_by_one_and_can_be_evaluated(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = launch(2, *train_command(digits, run))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pictures into 10 clusters") == 1  # only the main process prints
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 14]
    result = tmp_path / "eval.json"
    done = launch(2, "-m", "tcc_fast", "eval", "--ckpt", str(run), "--json", str(result), "--no-kmeans-features")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("TCC (argmax") == 1
    many = json.loads(result.read_text())
    one = evaluate(str(run), baselines=()).to_json()
    assert many["n"] == 1797
    assert many["acc"] == pytest.approx(one["acc"], abs=0.002)  # a picture on a border may fall to either side


def test_a_rank_that_dies_ends_the_run_with_a_message(digits: Path, tmp_path: Path) -> None:
    """The launcher notices, and the other rank does not wait for the dead one until its patience is over."""
    run = tmp_path / "run"
    command = launcher(2, *train_command(digits, run, "train.epochs=500", "start.method=none"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, start_new_session=True, **pipes)
    try:
        while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        victim = next(pid for pid in children_of(process.pid) if rank_of(pid) == "1")
        os.kill(victim, signal.SIGKILL)
        output = process.communicate(timeout=90)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode not in (0, None)
    assert "Signal 9 (SIGKILL)" in output


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
