"""What a run says while it goes on: on screen, in metrics.jsonl, to a tracker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tcc_fast.advice import advice
from tcc_fast.display import Display, duration
from tcc_fast.distributed import decide
from tcc_fast.metrics_file import MetricsFile
from tcc_fast.runs.run_files import CONFIG_FILE, METRICS_FILE, write_run_files
from tcc_fast.session import Session
from tcc_fast.telemetry import CollapseAlarm, LossLog

SILENCE = 60.0
"""Seconds without a line, after which a user wonders."""


class Reporter:
    """Turns losses into lines: on screen, in metrics.jsonl, to the tracker, and as alarms."""

    def __init__(self, session: Session, run: Path, on_line: Callable[[dict[str, float]], None]) -> None:
        self.session, self.run, self.on_line = session, run, on_line
        self.main = session.accelerator.is_main_process
        self.log = LossLog()
        self.alarm = CollapseAlarm(session.config)
        self.display = Display(session.total_steps, session.config.train.epochs, session.step, active=self.main)
        self.say, self.add_no_sync = self.display.say, self.log.add_no_sync
        self.restart_clock = self.log.restart_clock
        self._compiling, self._timed = False, 0

    def __enter__(self) -> Reporter:
        config = self.session.config
        self.metrics: MetricsFile | None = None
        decide(self._open_files)
        if config.train.tensorboard:
            self.session.accelerator.init_trackers("tensorboard")
        self.display.__enter__()
        return self

    def _open_files(self) -> None:
        session = self.session
        try:
            if session.step < session.total_steps or not (self.run / CONFIG_FILE).exists():  # else nothing is trained
                write_run_files(self.run, session.config, session.dataset.path)
            self.metrics = MetricsFile(self.run / METRICS_FILE, session.step)
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
        config, accelerator, dataset = session.config, session.accelerator, session.dataset
        num_images, split = len(session.images), config.data.split
        of_split = "" if split == "all" else f" of split {split}"
        self.say(f"{dataset.title}: {num_images:,} images{of_split} into {config.model.num_clusters} clusters")
        self.say(
            f"{accelerator.device}, {session.precision}, {accelerator.num_processes} process(es), run folder {self.run}"
        )
        for sentence in advice(config, dataset, accelerator.device):
            self.display.alarm(sentence)
        if checkpoint:
            ended = ": nothing is left to train" if session.step == session.total_steps else ""
            self.say(f"continuing {checkpoint} at step {session.step} of {session.total_steps}{ended}")

    def expect_compiling(self) -> None:
        """Say why the next step, the first of a phase, takes so long, if steps are compiled."""
        if self._compiling:
            return  # said already: the run goes on exactly where a phase begins
        self._compiling = self.session.compiled and self.session.step < self.session.total_steps
        if self._compiling:
            self.say("compiling the step: minutes for a large network, once for each phase of a run")

    @property
    def compiling(self) -> bool:
        """Whether the next step is to be compiled."""
        return self._compiling

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """A context for what is no training, to leave it out of the speed. Waits for the device."""
        if (device := self.session.accelerator.device).type == "cuda":
            torch.cuda.synchronize(device)  # the steps before it are training
        started = time.perf_counter()
        yield
        self.log.leave_out(time.perf_counter() - started)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """A context for a step, to leave one that is compiled out of the speed."""
        if not self._compiling:
            started = time.perf_counter()
            yield
            self._timed += 1
            if self._timed == 2:  # the first also makes ready what the others use
                self._say_if_it_takes_long(time.perf_counter() - started)
            return
        self.restart_clock()  # the views of the first batch were compiled, too
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.log.leave_out(seconds, steps=1)
        self.say(f"compiled in {seconds:.0f} s")
        self._compiling = False

    def _say_if_it_takes_long(self, seconds: float) -> None:
        """Say so now if the first line is minutes away; on a GPU a step has only been launched by then."""
        left = self.session.total_steps - self.session.step - 1
        if seconds * min(left, self.session.config.train.log_every) > SILENCE:
            self.say(f"a step takes {seconds:.1f} s, and there are {left:,} more: {duration(seconds * left)}")

    def report(self, epoch: int, lr: float) -> None:
        """Write a line on the steps since the last one, if there were any. Waits for the device.

        Raises:
            NonFiniteLoss: a part of the loss is NaN or infinite, or gradients are, again and again.
        """
        if not self.log:
            return
        session = self.session
        images = len(self.log) * session.config.train.batch_size
        line = {"step": session.step, "epoch": epoch} | self.log.read(session.step, images) | {"lr": lr}
        session.check_scale()  # after the losses, which say more of what became NaN
        self.display.update(line)
        if self.metrics:
            self.metrics.write(line)
            self.on_line(line)
        if session.config.train.tensorboard:
            session.accelerator.log(line, step=session.step)
        if session.training_step.clusters_on(session.step - 1):
            for sentence in self.alarm.check(line, self.log.sizes):
                self.display.alarm(sentence)

    def epoch_loss(self, epoch: int) -> float | None:
        """Mean loss of the epoch that has just ended, if epochs can be compared by it; None on ranks without metrics.

        While a queue fills, before clusters are trained and while α grows, the loss is another one.
        """
        session = self.session
        queue, loss = session.config.queue, session.config.loss
        fills = queue.cluster_multiple if loss.cluster_track and queue.cluster else 0
        settled = session.training_step.start_step + max(loss.alpha_ramp_steps, fills)
        filled = -(-queue.instance_length // session.config.train.batch_size)
        first = epoch * session.pipeline.batches_per_epoch
        if self.metrics is None or first < max(settled, filled):
            return None
        return self.metrics.mean_loss(first)
