"""A training run, read downwards: prepare, resume, loop, write.

Places where the host waits for the device are marked "sync".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from torch import Tensor

from tcc_fast.distributed import decide, processes
from tcc_fast.method.optim import learning_rate, set_learning_rate
from tcc_fast.reporter import Reporter
from tcc_fast.runs.checkpoint_folder import drop_later_checkpoints, find_checkpoint, list_checkpoints
from tcc_fast.runs.preemption import Preemption
from tcc_fast.runs.run_files import CONFIG_FILE, METRICS_FILE
from tcc_fast.runs.run_lock import RunLock
from tcc_fast.runs.run_state import RunState, read_state
from tcc_fast.runs.seeds_folder import refuse_seeds
from tcc_fast.session import Session, open_session
from tcc_fast.settings import Config
from tcc_fast.telemetry import NonFiniteLoss

Resume = Literal["no", "must", "auto"]


def train(
    config: Config,
    data: str | Path,
    run: str | Path,
    resume: Resume = "no",
    checkpoint: Path | None = None,
    on_start: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
    precision: str | None = None,
    on_line: Callable[[dict[str, float]], None] = lambda line: None,
) -> Path:
    """Train on a packed data set and return the last checkpoint.

    Args:
        config: all settings; ``model.num_clusters`` may be empty when the data set has classes.
        data: the data set folder.
        run: the run's folder, which gets config.yaml, metrics.jsonl and checkpoints/.
        resume: `no` starts anew and refuses a folder that holds a run; `must` continues the run there, and it
            is an error if there is none; `auto` continues it if it has a checkpoint and starts it otherwise.
        checkpoint: with `must`: which of the run's checkpoints; None: the newest. Later ones are removed.
        on_start: called by the main process when all is well and the run's folder is there.
        say: told, by the main process, which pipeline it will be before anything large is read, and which
            checkpoints are removed.
        precision: what `auto` means without a checkpoint, which says it; None: by the device.
        on_line: called by the main process with each line of metrics.jsonl once it is written, for a tracker of yours.

    Raises:
        ValueError: something the user can mend; says what to do.
        Preempted: SIGTERM, SIGHUP or Ctrl-C came; a checkpoint of that moment is there.
    """
    data, run = Path(data), Path(run)
    processes()  # from here on, several of them know of each other
    with RunLock(run):
        checkpoint = decide(lambda: checkpoint or _checkpoint_to_resume(run, resume))
        saved = decide(lambda: read_state(checkpoint) if checkpoint else None)
        session = open_session(config, data, run, saved, say, precision)
        unreported = _go_back(session, run, checkpoint, saved, say) if checkpoint and saved else {}
        with Reporter(session, run, on_line) as reporter:
            reporter.log.load_tensors(unreported, session.accelerator.device)
            if session.accelerator.is_main_process:
                on_start()
            reporter.introduce(checkpoint)
            try:
                with Preemption(session.accelerator.device, config.train.log_every) as preemption:
                    checkpoint = _loop(session, run, reporter, preemption) or checkpoint
            except NonFiniteLoss as error:
                kept = list_checkpoints(run)
                how = (
                    f"continue with --resume {kept[-1]} and"
                    if kept
                    else "there is no checkpoint yet, so start anew with another --out and"
                )
                raise ValueError(
                    f"{error}; {how} a lower optim.lr (it was {config.optim.lr:g}), or train.precision=fp32"
                ) from None
            finally:
                session.pipeline.close()
    assert checkpoint is not None
    return checkpoint


def _go_back(
    session: Session, run: Path, checkpoint: Path, saved: RunState, say: Callable[[str], None]
) -> dict[str, Tensor]:
    """Continue from a checkpoint; later ones are no longer part of the run. Returns losses not yet reported then."""
    unreported = session.load(checkpoint, saved)
    session.accelerator.wait_for_everyone()  # all have read what may now go
    decide(lambda: drop_later_checkpoints(run, saved.step, say))
    return unreported


def _loop(session: Session, run: Path, reporter: Reporter, preemption: Preemption) -> Path | None:
    """Train to the end; returns the last checkpoint written."""
    config, pipeline, training_step = session.config, session.pipeline, session.training_step
    newest, stopping = None, False

    def save_now() -> Path:
        session.check_finite()
        return session.save(run, reporter.log.tensors(), loss=None)

    reporter.expect_compiling()
    while (epoch := pipeline.state_dict()["epoch"]) < config.train.epochs:
        for batch in pipeline:
            if session.step == training_step.start_step > 0:
                reporter.say(f"start of the prototypes ({config.start.method}) after {session.step} steps")
                with reporter.clock_stopped():
                    session.start_prototypes()  # sync, once a run
                reporter.expect_compiling()
            lr = learning_rate(config.optim, session.step, session.total_steps)
            set_learning_rate(session.optimizer, lr)
            with reporter.timed(), preemption.shielded() if reporter.compiling else nullcontext():
                reporter.add_no_sync(training_step(batch, session.step))
            session.step += 1
            if session.step % config.train.log_every == 0:
                reporter.report(epoch, lr)  # sync
            stopping = preemption.agreed(session.step)
            if stopping and pipeline.state_dict()["batch"] < pipeline.batches_per_epoch:
                raise preemption.stopped(save_now())
        ends = (epoch + 1) % config.train.checkpoint_every == 0 or epoch + 1 == config.train.epochs
        if ends:
            reporter.report(epoch, lr)  # sync; finds a NaN before it is saved
            session.check_finite()  # sync: a checkpoint never holds NaN
            newest = session.save(run, {}, reporter.epoch_loss(epoch))  # sync
            reporter.restart_clock()
        if stopping:
            raise preemption.stopped(newest if ends and newest else save_now())
    return newest


def _checkpoint_to_resume(run: Path, resume: Resume) -> Path | None:
    refuse_seeds(run)
    found = list_checkpoints(run)
    if resume == "must":
        return find_checkpoint(run)
    if resume == "auto":
        return found[-1] if found else None
    if found or (run / METRICS_FILE).exists():
        raise ValueError(f"{run} already holds a run: continue it with --resume auto, or choose another --out")
    if (run / CONFIG_FILE).exists():
        raise ValueError(f"{run / CONFIG_FILE} would be overwritten: choose another --out")
    return None
