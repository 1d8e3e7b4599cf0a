"""A training run, read downwards: prepare, resume, loop, write.

Places where the host waits for the device are marked "sync".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import yaml
from torch import Tensor

from tcc_fast.checkpoint import drop_later_checkpoints, find_checkpoint, list_checkpoints, read_state
from tcc_fast.config import Config
from tcc_fast.display import Display
from tcc_fast.distributed import decide, processes
from tcc_fast.encoder import stem_advice
from tcc_fast.optim import learning_rate, set_learning_rate
from tcc_fast.preemption import Preempted, Preemption
from tcc_fast.run_lock import RunLock
from tcc_fast.session import Session, open_session
from tcc_fast.telemetry import CollapseAlarm, LossLog, MetricsFile, NonFiniteLoss

Resume = Literal["no", "must", "auto"]


def train(
    config: Config,
    data: Path,
    run: Path,
    resume: Resume = "no",
    checkpoint: Path | None = None,
    on_start: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
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
        say: told, before anything large is read, which pipeline it will be.

    Raises:
        ValueError: something the user can mend; says what to do.
        Preempted: SIGTERM came; a checkpoint of that moment is there.
    """
    processes()  # from here on, several of them know of each other
    with RunLock(run):
        return _train(config, data, run, resume, checkpoint, on_start, say)


def _train(
    config: Config,
    data: Path,
    run: Path,
    resume: Resume,
    checkpoint: Path | None,
    on_start: Callable[[], None],
    say: Callable[[str], None],
) -> Path:
    checkpoint = decide(lambda: checkpoint or _checkpoint_to_resume(run, resume))
    saved = decide(lambda: read_state(checkpoint) if checkpoint else None)
    session = open_session(config, data, run, saved, say)
    unreported: dict[str, Tensor] = {}
    if checkpoint and saved:
        unreported = session.load(checkpoint, saved)
        session.accelerator.wait_for_everyone()  # all have read what may now go
        decide(partial(drop_later_checkpoints, run, saved.step))
    with Reporter(session, run) as reporter:
        reporter.log.load_tensors(unreported, session.accelerator.device)
        if session.accelerator.is_main_process:
            on_start()
        reporter.introduce(checkpoint)
        try:
            with Preemption(session.accelerator.device, config.train.log_every) as preemption:
                checkpoint = _loop(session, run, reporter, preemption) or checkpoint
        except NonFiniteLoss as error:
            kept = list_checkpoints(run)
            good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
            raise ValueError(f"{error}; {good}. Lower optim.lr, or try train.precision=fp32") from None
        finally:
            session.pipeline.close()
    assert checkpoint is not None
    return checkpoint


def _loop(session: Session, run: Path, reporter: Reporter, preemption: Preemption) -> Path | None:
    """Train to the end; returns the last checkpoint written."""
    config, pipeline, training_step = session.config, session.pipeline, session.training_step
    newest, stopping = None, False

    def save_now() -> Path:
        session.check_finite()
        return session.save(run, reporter.log.tensors(), loss=None)

    while (epoch := pipeline.state_dict()["epoch"]) < config.train.epochs:
        for batch in pipeline:
            if session.step == training_step.start_step > 0:
                reporter.say(f"start of the prototypes ({config.start.method}) after {session.step} steps")
                session.start_prototypes()  # sync, once a run
                reporter.restart_clock()
            lr = learning_rate(config.optim, session.step, session.total_steps)
            set_learning_rate(session.optimizer, lr)
            reporter.add_no_sync(training_step(batch, session.step))
            session.step += 1
            if session.step % config.train.log_every == 0:
                reporter.report(epoch, lr)  # sync
            stopping = preemption.agreed(session.step)
            if stopping and pipeline.state_dict()["batch"] < pipeline.batches_per_epoch:
                raise Preempted(save_now())
        ends = (epoch + 1) % config.train.checkpoint_every == 0 or epoch + 1 == config.train.epochs
        if ends:
            reporter.report(epoch, lr)  # sync; finds a NaN before it is saved
            session.check_finite()  # sync: a checkpoint never holds NaN
            newest = session.save(run, {}, reporter.epoch_loss(epoch))  # sync
            reporter.restart_clock()
        if stopping and epoch + 1 < config.train.epochs:
            raise Preempted(newest if ends and newest else save_now())
    return newest


class Reporter:
    """Turns losses into lines: on screen, in metrics.jsonl, to the tracker, and as alarms."""

    def __init__(self, session: Session, run: Path) -> None:
        self.session, self.run = session, run
        self.main = session.accelerator.is_main_process
        self.log = LossLog()
        self.alarm = CollapseAlarm(len(session.model.prototypes))
        self.display = Display(session.total_steps, session.step, active=self.main)
        self.say, self.add_no_sync = self.display.say, self.log.add_no_sync
        self.restart_clock = self.log.restart_clock

    def __enter__(self) -> Reporter:
        config = self.session.config
        self.metrics: MetricsFile | None = None
        decide(self._open_files)
        if config.train.tensorboard:
            self.session.accelerator.init_trackers("tensorboard")
        self.display.__enter__()
        return self

    def _open_files(self) -> None:
        fresh = self.run / "config.partial"
        try:
            fresh.write_text(yaml.safe_dump(self.session.config.model_dump(mode="json"), sort_keys=False))
            fresh.replace(self.run / "config.yaml")
            self.metrics = MetricsFile(self.run / "metrics.jsonl", self.session.step)
        except OSError as error:
            raise ValueError(f"{self.run} cannot be written ({error.strerror}): make room, or choose another") from None

    def __exit__(self, *error: object) -> None:
        self.display.__exit__(None, None, None)
        if self.metrics:
            self.metrics.close()
        for tracker in self.session.accelerator.trackers:
            tracker.finish()

    def introduce(self, checkpoint: Path | None) -> None:
        """Say what is about to happen."""
        session = self.session
        config, accelerator = session.config, session.accelerator
        name = session.dataset.manifest.name
        self.say(f"{name}: {len(session.dataset):,} pictures into {config.model.num_clusters} clusters")
        precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
        self.say(f"{accelerator.device}, {precision}, {accelerator.num_processes} process(es), run folder {self.run}")
        if advice := stem_advice(config.model.stem, config.data.image_size):
            self.display.alarm(advice)
        if checkpoint:
            self.say(f"continuing {checkpoint} at step {session.step} of {session.total_steps}")

    def report(self, epoch: int, lr: float) -> None:
        """Write a line on the steps since the last one, if there were any. Waits for the device.

        Raises:
            NonFiniteLoss: a part of the loss is NaN or infinite.
        """
        if not self.log:
            return
        session = self.session
        images = len(self.log) * session.config.train.batch_size
        line = {"step": session.step, "epoch": epoch} | self.log.read(session.step, images) | {"lr": lr}
        self.display.update(line)
        if self.metrics:
            self.metrics.write(line)
        if session.config.train.tensorboard:
            session.accelerator.log(line, step=session.step)
        if session.training_step.clusters_on(session.step - 1):
            for sentence in self.alarm.check(line, images):
                self.display.alarm(sentence)

    def epoch_loss(self, epoch: int) -> float | None:
        """Mean of the losses logged in an epoch, if epochs can be compared by it; None on ranks that write no metrics.

        While Q fills, before clusters are trained and while α grows, the loss is another one.
        """
        session = self.session
        settled = session.training_step.start_step + session.config.loss.alpha_ramp_steps
        filled = -(-session.config.queue.instance_length // session.config.train.batch_size)
        if self.metrics is None or epoch * session.pipeline.batches_per_epoch < max(settled, filled):
            return None
        return self.metrics.mean_loss(epoch)


def _checkpoint_to_resume(run: Path, resume: Resume) -> Path | None:
    found = list_checkpoints(run)
    if resume == "must":
        return find_checkpoint(run)
    if resume == "auto":
        return found[-1] if found else None
    if found or (run / "metrics.jsonl").exists():
        raise ValueError(f"{run} already holds a run: continue it with --resume auto, or choose another --out")
    return None
