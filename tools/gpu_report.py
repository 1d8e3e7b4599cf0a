"""Verify and measure everything that is for a CUDA GPU, and hold it against the goals of `gpu_page.py`.

    python tools/gpu_report.py --out docs/records/DATE-GPU.md              # all parts, one after the other
    python tools/gpu_report.py verify step-96 --out docs/records/DATE-GPU.md    # some of them; the others stay
    python tools/gpu_report.py --quick --out /tmp/try.md                   # small sizes, also on a CPU
    timeout 580 python tools/gpu_report.py step-96 --limit 560             # where a command may not take longer

Parts: `verify` (losses and states of the tuned step beside the plain one's, compiled views beside eager ones, nothing
waits, nothing is compiled twice, one NCCL rank), `step-32`, `step-96`, `step-224` (speed against the plain version and
against one fixed batch, by every pipeline that is installed; where the time and the memory go), `small-batch` (whether
a step of 256 images should be recorded), `memory` (what a queue of 65 536 costs), `quality` (clusters of a tuned and
of a plain run), `run` (a whole training run: CIFAR-10 if it is converted in the work folder). Each part is a process of
its own and adds its figures, after each round, to the JSON file beside the report, from which the report is written
anew. What needs a package or a data set that is not there is named and left out; a part that fails, dies or takes
longer than `--limit` says so beside what it had found, and the others go on.

Speed is measured on generated images (photo-like JPEGs, the same everywhere); quality on real ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # measure this tree, installed or not
if importlib.util.find_spec("pydantic") is None:
    sys.exit("tools/gpu_report.py needs pydantic, as all of tcc-fast does: install it, or put it on PYTHONPATH")

from gpu_page import save, write
from gpu_parts import PARTS, Keep, Sizes, sizes

from tcc_fast.bench.machine import describe_machine, versions
from tcc_fast.compiling import compiler_lacks


def begun(before: dict[str, Any] | None) -> dict[str, Any]:
    """What stands for a part while it is measured; figures of an earlier time are kept until there are new ones."""
    earlier = before and (before if "failed" not in before else before.get("earlier"))
    found = {"date": now(), "failed": "not finished", "took": 0.0}
    return found | ({"earlier": earlier} if earlier else {})


def measure(name: str, amount: Sizes, before: dict[str, Any] | None, save: Keep) -> dict[str, Any]:
    """One part, with its date and time; a failure is a finding like others, beside what was found before it."""
    started = time.perf_counter()
    found = begun(before)

    def keep(more: dict[str, Any]) -> None:
        found.update(more)
        save(found | {"took": time.perf_counter() - started})

    keep({})
    try:
        found |= PARTS[name](name, amount, keep)
        del found["failed"]
        found.pop("earlier", None)
    except Exception as error:  # the other parts can still be measured
        found["failed"] = f"{type(error).__name__}: {error}"
    return found | {"took": time.perf_counter() - started}


def measure_apart(name: str, results: dict[str, Any], out: Path, limit: float, options: list[str]) -> None:
    """One part in a process of its own, which leaves neither memory nor settings behind, nor takes the others with it
    when it dies or takes longer than ``limit`` seconds; puts what it found among the results."""
    results[name] = begun(results.get(name))
    save(results, out)
    started = time.perf_counter()
    command = [sys.executable, __file__, name, "--here", "--out", str(out), *options]
    ended = run_at_most(limit, command)
    why = f"ended after {limit:.0f} s" if ended is None else f"ended with exit status {ended}" if ended else None
    results |= load(out)
    if why:
        failed = [*filter(None, [results[name].get("failed")]), why]
        results[name] |= {"failed": "; ".join(failed), "took": time.perf_counter() - started}
        save(results, out)


def run_at_most(seconds: float, command: list[str]) -> int | None:
    """Exit status; None where it took longer, and was ended with all that it had started, which would go on working on
    the GPU beside the next part."""
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            return process.wait(seconds)
        except BaseException as error:  # also Ctrl-C, which goes to this process group alone
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                return None
            raise


def now() -> str:
    """Date and time."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def load(out: Path) -> dict[str, Any]:
    """All readings that are beside the report."""
    raw = out.with_suffix(".json")
    return json.loads(raw.read_text(encoding="utf-8")) if raw.exists() else {}


def main(arguments: list[str] | None = None) -> None:
    """Measure the chosen parts, and write the report after each."""
    date = time.strftime("%Y-%m-%d")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; default: all")
    parser.add_argument("--out", type=Path, default=Path(f"docs/records/{date}-GPU.md"))
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it runs")
    parser.add_argument("--work", type=Path, default=Path("data"), help="where images and runs go")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which a part is ended")
    parser.add_argument("--render", action="store_true", help="only write the report anew, from its JSON file")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # one part, in this process
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.parts if name not in PARTS]:
        parser.error(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    results = load(chosen.out)
    if chosen.render:
        if not results:
            parser.error(f"{chosen.out.with_suffix('.json')} is not there: measure first")
        write(results, chosen.out, date, PARTS)
        return
    amount = sizes(chosen.quick, chosen.work.resolve())
    lacking = compiler_lacks(amount.device) if amount.device.type == "cuda" else None
    machine = describe_machine(amount.device)
    results["about"] = {"machine": machine, "versions": versions(), "quick": chosen.quick, "lacking": lacking}
    if chosen.here:
        (name,) = chosen.parts

        def keep(found: dict[str, Any]) -> None:
            save(results | {name: found}, chosen.out)

        keep(measure(name, amount, results.get(name), keep))
        return
    for name in chosen.parts or PARTS:
        quick = ["--quick"] if chosen.quick else []
        measure_apart(name, results, chosen.out, chosen.limit, ["--work", str(chosen.work), *quick])
        took, failed = results[name]["took"], results[name].get("failed") or results[name].get("failures")
        print(f"{name}: {took:.0f} s" + (f", failed: {failed}" if failed else ""), flush=True)
        write(results, chosen.out, date, PARTS)
    print(f"wrote {chosen.out} and {chosen.out.with_suffix('.json')}")


if __name__ == "__main__":
    main()
