"""What each of several processes holds and sends, counted while it trains.

    python tools/bench_ranks.py [--processes 1 2 4] [--queue 16384 262144] [--json FILE]

Launches itself with `accelerate launch`, once for each number of processes (on GPUs if there are as many, on the CPU
otherwise), and prints a Markdown table: the most memory that the queues take at a process while they are made and
filled, measured, and Q's by the formula; bytes that a process puts into collectives in a step, counted and by the
formulas of docs/scaling.md; and the bytes of gradients. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from tcc_fast.batch import Batch
from tcc_fast.config import config_from_tree
from tcc_fast.distributed import gather_objects, keep_own_buffers, leave, processes, traffic
from tcc_fast.method.batch_norm import share_batch_statistics
from tcc_fast.method.model import TCC, momentum_twin
from tcc_fast.method.optim import build_optimizer
from tcc_fast.method.step import TrainingStep, build_queues
from tcc_fast.settings import Config

CLUSTERS, DIM, BATCH, WIDTH, SIDE = 10, 128, 512, 16, 8
STEPS = 3


def settings(length: int) -> Config:
    """A small network, since what is counted does not depend on it, but in known ways."""
    return config_from_tree(
        {
            "model": {"num_clusters": CLUSTERS, "feature_dim": DIM, "feature_batch_norm": True},
            "queue": {"instance_length": length},
            "train": {"batch_size": BATCH},
        }
    )


def encoder() -> nn.Module:
    """WIDTH channels, one batch norm."""
    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, bias=False),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(WIDTH, DIM),
    )


def forget_peak(device: torch.device) -> None:
    """From now on the peak is of what comes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak of resident memory is the present


def peak_memory(device: torch.device) -> int:
    """Bytes of this process at the worst moment since `forget_peak`: allocated on the GPU, or resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def measure(length: int, accelerator: Accelerator) -> dict[str, Any]:
    """Build everything, fill Q, take a few steps, and say what this process held and sent."""
    config, device, ranks = settings(length), accelerator.device, accelerator.num_processes
    torch.manual_seed(0)
    model = TCC(config.model, config.loss, encoder()).to(device)
    if ranks > 1:
        share_batch_statistics(model)
    twin = momentum_twin(model)
    share = BATCH // ranks
    forget_peak(device)
    before = peak_memory(device)
    queues = build_queues(config, CLUSTERS, device=device)
    keys = nn.functional.normalize(torch.randn(share, DIM, device=device), dim=1)
    for _ in range(-(-length // BATCH)):
        queues.instance.enqueue_no_sync(keys)
    peak = peak_memory(device) - before
    prepared, optimizer = accelerator.prepare_model(model), build_optimizer(model, config.optim)
    gradients = [0]
    if isinstance(prepared, DistributedDataParallel):

        def counted(state, bucket):  # type: ignore[no-untyped-def]  # torch takes no annotation that is a string
            gradients[0] += bucket.buffer().nbytes
            return allreduce_hook(None, bucket)

        prepared.register_comm_hook(None, counted)
    step = TrainingStep(config, keep_own_buffers(prepared), twin, queues, optimizer, accelerator)
    for number in range(STEPS):
        traffic.clear()
        gradients[0] = 0
        step(batch(share, accelerator.process_index, device), number)
    return {
        "ranks": ranks,
        "device": device.type,
        "queue_length": length,
        "queue_peak_bytes": peak,
        "shard_bytes": queues.instance.keys.nbytes,
        "sent": dict(traffic),
        "gradient_bytes": gradients[0],
        "parameter_bytes": sum(parameter.nbytes for parameter in model.parameters()),
    }


def batch(share: int, rank: int, device: torch.device) -> Batch:
    """Noise: what is sent does not depend on the images."""
    views: list[Tensor] = [torch.randn(share, 3, SIDE, SIDE, device=device) for _ in range(2)]
    return Batch(views[0], views[1], torch.arange(rank * share, (rank + 1) * share, device=device))


def expected(ranks: int) -> dict[str, int]:
    """The formulas of docs/scaling.md: bytes by kind of collective."""
    if ranks == 1:
        return {}
    channels = WIDTH + DIM
    sums = BATCH + BATCH * DIM + 3 * CLUSTERS * DIM
    return {
        "gather": 4 * (BATCH * DIM + BATCH + 4 * ranks * channels),
        "sum": 4 * (sums + 2 * channels),
        "max": 4 * BATCH,
    }


def work(lengths: list[int], results: Path) -> None:
    """What each launched process does; the main one writes."""
    accelerator = Accelerator(cpu=processes().device.type == "cpu", mixed_precision="no")
    found = [gather_objects(measure(length, accelerator)) for length in lengths]
    if accelerator.is_main_process:
        results.write_text(json.dumps(found), encoding="utf-8")


def launch(ranks: int, lengths: list[int]) -> list[list[dict[str, Any]]]:
    """For each length of Q, what each process measured."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", f"--num_processes={ranks}"]
    command += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    if ranks > 1:
        command.append("--multi_gpu")  # without GPUs: several processes on the CPU
    if torch.cuda.device_count() < ranks:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        command += [__file__, "--queue", *map(str, lengths), "--work", str(results)]
        subprocess.run(command, env=environment, check=True)
        found: list[list[dict[str, Any]]] = json.loads(results.read_text(encoding="utf-8"))
        return found


def table(found: list[list[dict[str, Any]]]) -> str:
    """Largest of the processes in each column, in MB (10⁶ bytes) or bytes."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    columns = ["W", "on", "J", "Q and P, peak MB", "4 d J / W, MB", "put into collectives, bytes a step"]
    columns += ["by the formulas", "gradients, bytes", "4 Θ"]
    lines = [f"B = {BATCH}, d = {DIM}, K = {CLUSTERS}; {machine}", "", _row(columns), _row(["---"] * len(columns))]
    for ranks in found:
        one = ranks[0]
        peak = max(each["queue_peak_bytes"] for each in ranks) / 1e6
        share = 4 * DIM * one["queue_length"] / one["ranks"] / 1e6
        sent = max(sum(each["sent"].values()) for each in ranks)
        formula = sum(expected(one["ranks"]).values())
        gradients = max(each["gradient_bytes"] for each in ranks)
        start = [str(one["ranks"]), one["device"], f"{one['queue_length']:,}", f"{peak:.1f}", f"{share:.1f}"]
        lines.append(_row([*start, *(f"{number:,}" for number in (sent, formula, gradients, one["parameter_bytes"]))]))
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Launch, gather, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4], metavar="W")
    parser.add_argument("--queue", nargs="+", type=int, default=[16_384, 262_144], metavar="J", help="lengths of Q")
    parser.add_argument("--json", type=Path, help="also write what each process measured")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # a launched process, and where its results go
    options = parser.parse_args()
    if options.work:
        work(options.queue, options.work)
        leave()
        return
    found = [ranks for number in options.processes for ranks in launch(number, options.queue)]
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
