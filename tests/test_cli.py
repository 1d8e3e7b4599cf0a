"""The commands as people type them, bare forms and mistakes included."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tcc_fast import __main__
from tcc_fast.cli import app
from tcc_fast.commented_yaml import commented_yaml
from tcc_fast.config import load_config
from tcc_fast.notice import Notice
from tests.conftest import TINY

SETTINGS = [*TINY, "train.epochs=1", "start.method=none"]


@pytest.fixture
def home(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the digits under data/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits").symlink_to(digits)
    return tmp_path


def type_in(*arguments: str) -> str:
    """Run a command in this process; returns what it printed, and raises what it raised."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False).output


def test_the_bare_forms_train_and_evaluate_the_only_data_set(home: Path) -> None:
    printed = type_in("train", *SETTINGS)
    (run,) = (path for path in (home / "runs").iterdir() if not path.is_symlink())
    assert re.fullmatch(r"digits-\d{8}-\d{6}", run.name)
    assert (home / "runs" / "latest").resolve() == run
    assert f"tcc-fast eval --ckpt runs/{run.name}" in printed
    printed = type_in("eval", "--ckpt", "latest", "--json", "out.json", "--kmeans-pixels")
    assert "TCC (argmax π), best one-to-one match" in printed
    assert "1,797 images at 8 px, split all" in printed
    result = json.loads((home / "out.json").read_text())
    assert {"acc", "nmi", "ari", "n", "num_clusters", "clusters_used", "cluster_sizes"} <= result.keys()
    assert 0 <= result["acc"] <= 1
    assert sum(result["cluster_sizes"]) == result["n"] == 1797
    assert len(result["cluster_sizes"]) == result["num_clusters"] == 10
    assert result["kmeans_pixels"]["acc"] == pytest.approx(0.79, abs=0.03)
    assert result["kmeans_features"].keys() == {"acc", "nmi", "ari"}


def test_resume_latest_continues_the_run_with_its_own_settings(home: Path) -> None:
    type_in("train", *SETTINGS, "--out", "runs/one")
    with pytest.raises(ValueError, match=r"other settings: train\.epochs was 1, now 2.* train\.init=.*runs/one$"):
        type_in("train", "--resume", "latest", "train.epochs=2")
    with pytest.raises(ValueError, match=r"other settings: .*model\.feature_dim was 16, now 128.* with --out$"):
        type_in("train", "--resume", "latest", "--config", "digits")  # what is named counts, not what the run has
    assert "continuing" in type_in("train", "--resume", "latest")


def test_other_settings_are_refused_before_any_image_is_decoded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in("train", *SETTINGS, "--out", "runs/one")
    monkeypatch.setattr("tcc_fast.session.open_pipeline", lambda *_: pytest.fail("images are being decoded"))
    with pytest.raises(ValueError, match="other settings: loss.alpha"):
        type_in("train", "--resume", "latest", "loss.alpha=0.25")


@pytest.mark.parametrize("resume", [("--resume", "runs/one"), ("--resume", "auto", "--out", "runs/one")])
def test_a_run_goes_on_with_the_data_set_it_was_last_continued_with(
    home: Path, resume: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in("train", *SETTINGS, "train.epochs=2", "train.checkpoint_every=1", "--out", "runs/one")
    shutil.rmtree("runs/one/checkpoints/step-000000014")
    Path("data/digits").rename("moved")
    with pytest.raises(ValueError, match=r"data/digits: no such folder"):
        type_in("train", *resume)
    with monkeypatch.context() as patch:  # killed before a checkpoint says where the data set is now
        patch.setattr("tcc_fast.train.Session.save", lambda *_, **__: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            type_in("train", *resume, "--data", "moved")
    assert "runs/one/checkpoints/step-000000007 at step 7 of 14" in type_in("train", *resume)


def test_a_training_is_done_whatever_became_of_its_images(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object, **__: object) -> Path:
        (home / "data" / "digits").unlink()
        return Path("runs/one/checkpoints/step-000000007")

    monkeypatch.setattr("tcc_fast.train.train", train)
    assert "done: runs/one/checkpoints/step-000000007" in type_in("train", *SETTINGS, "--out", "runs/one")


def test_a_run_whose_folder_was_hardly_made_begins_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the first files of its folder."""

    def power_cut(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("tcc_fast.runs.run_files.json.dumps", power_cut)  # of the second file
        with pytest.raises(RuntimeError, match="power cut"):
            type_in("train", *SETTINGS, "--out", "runs/one")
    assert (home / "runs" / "one" / "config.yaml").is_file()
    type_in("train", *SETTINGS, "--out", "runs/one", "--resume", "auto")


def test_a_run_that_dies_can_be_continued_as_latest(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_cut(self: object, batch: object, step: int) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("tcc_fast.method.step.TrainingStep.__call__", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            type_in("train", *SETTINGS, "--out", "runs/one")
    with pytest.raises(ValueError, match="no checkpoint at runs/one yet: .* --resume auto --out runs/one"):
        type_in("train", "--resume", "latest")
    assert (home / "runs" / "latest").resolve() == home / "runs" / "one"


def test_a_run_that_dies_before_its_first_checkpoint_goes_on_as_itself(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own settings and data, also where there are others by now."""

    def power_cut(self: object, batch: object, step: int) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("tcc_fast.method.step.TrainingStep.__call__", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            type_in("train", *SETTINGS, "model.num_clusters=3", "--out", "runs/one")
    (home / "data" / "other").symlink_to((home / "data" / "digits").resolve())
    assert "into 3 clusters" in type_in("train", "--resume", "auto", "--out", "runs/one")
    assert load_config("runs/one/config.yaml").model.num_clusters == 3
    with pytest.raises(ValueError, match="there are several data sets"):
        type_in("train", "--resume", "auto", "--out", "runs/two")


def test_a_config_in_the_place_of_a_run_is_neither_overwritten_nor_rewritten(home: Path) -> None:
    mine = home / "runs" / "mine"
    mine.mkdir(parents=True)
    settings = "# my notes\n" + commented_yaml(load_config("digits", [*SETTINGS, "model.num_clusters=10"]))
    (mine / "config.yaml").write_text(settings)
    with pytest.raises(ValueError, match=r"runs/mine/config\.yaml would be overwritten: choose another --out"):
        type_in("train", "--config", "runs/mine/config.yaml", "--out", "runs/mine")
    type_in("train", "--config", "runs/mine/config.yaml", "--resume", "auto", "--out", "runs/mine")
    assert (mine / "config.yaml").read_text() == settings
    type_in("train", "--resume", "runs/mine", "optim.lr=0.5")  # of a run that is complete: nothing is trained by it
    assert load_config("runs/mine/config.yaml").optim.lr != 0.5


def test_eval_takes_runs_as_a_shell_lists_them(home: Path) -> None:
    for seed in (0, 1):
        type_in("train", *SETTINGS, f"seed={seed}", "--out", f"runs/several/seed-{seed}")
    printed = type_in("eval", "--ckpt", "runs/several/seed-0", "runs/several/seed-1", "--no-kmeans-features")
    assert "mean and sample standard deviation over 2 runs" in printed
    assert "split all, runs/several/seed-1" in type_in("eval", "runs/several/seed-1", "--no-kmeans-features")
    with pytest.raises(ValueError, match="say which run to evaluate: tcc-fast eval --ckpt latest"):
        type_in("eval")


def test_without_labels_train_points_to_the_clusters_and_eval_refuses_what_needs_labels(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in("convert", "digits", "--labels", "none", "--out", "data/own")
    printed = type_in("train", "--data", "data/own", *SETTINGS, "model.num_clusters=3", "--out", "runs/one")
    assert "see its clusters with: tcc-fast assign --ckpt runs/one --out clusters.csv --sheets sheets" in printed
    monkeypatch.setattr("tcc_fast.evaluation.trained.Trained.embed", None)  # not called
    for option in ("--kmeans-pixels", "--linear-probe"):
        with pytest.raises(ValueError, match=f"has no labels, without which there is no {option}: leave it out"):
            type_in("eval", "--ckpt", "runs/one", option)
    with pytest.raises(ValueError, match="there is no --kmeans-pixels or --confusion: leave it out"):
        type_in("eval", "--ckpt", "runs/one", "--kmeans-pixels", "--confusion", "table.csv")


def test_what_tcc_fast_warns_of_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(**options: object) -> None:
        for category in (Notice, RuntimeWarning):  # the second is one of numpy's, in a file of ours
            sys.stderr.write(warnings.formatwarning("beware", category, "start.py", 7))

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back at the end
    monkeypatch.setattr(__main__, "app", warn)
    with pytest.raises(SystemExit):
        __main__.main()
    assert capsys.readouterr().err == "tcc-fast: warning: beware\nstart.py:7: RuntimeWarning: beware\n"


def test_a_folder_among_the_settings_is_answered_before_data_is_looked_for(home: Path) -> None:
    for sets in (("digits",), ("digits", "more")):
        (home / "data" / sets[-1]).exists() or (home / "data" / sets[-1]).symlink_to(home / "data" / "digits")
        with pytest.raises(ValueError, match=r"if it is the data set, write --data data/digits"):
            type_in("train", "data/digits")


def test_a_file_that_cannot_be_made_is_named_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a link, the place where it was to be, not the photograph that it leads to."""

    def fail(**options: object) -> None:
        raise PermissionError(1, "Operation not permitted", b"/photos/one.jpg", None, b"sorted/new\nline")

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(__main__, "app", fail)
    with pytest.raises(SystemExit):
        __main__.main()
    assert capsys.readouterr().err == "tcc-fast: sorted/new\\u000aline: Operation not permitted\n"


def test_a_run_that_was_left_out_is_asked_for(home: Path) -> None:
    with pytest.raises(ValueError, match="--resume wants to know which run: --resume latest"):
        type_in("train", "--resume", "--out", "runs/one")


def test_what_the_terminal_cannot_write_is_written_in_ascii(home: Path) -> None:
    type_in("train", *SETTINGS, "--out", "runs/one")
    command = [sys.executable, "-m", "tcc_fast", "eval", "--ckpt", "runs/one", "--no-kmeans-features"]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
    assert b"TCC (argmax \\u03c0), best one-to-one match" in done.stdout


def test_a_run_to_assign_is_named_once_in_either_way(home: Path) -> None:
    type_in("train", *SETTINGS, "--out", "runs/one")
    for named in (["latest"], ["--ckpt", "latest"]):
        assert "out.csv: 1,797 images in" in type_in("assign", *named, "--out", "out.csv")
    for named in ([], ["latest", "--ckpt", "latest"]):
        with pytest.raises(ValueError, match="say which run has the clusters, once: tcc-fast assign --ckpt latest"):
            type_in("assign", *named, "--out", "out.csv")


def test_the_same_run_twice_is_refused_before_the_work(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        type_in("train", *SETTINGS, "--out", f"runs/{name}", "train.epochs=2", "train.checkpoint_every=1")
    monkeypatch.setattr("tcc_fast.evaluation.evaluate.evaluate", None)  # not called
    with pytest.raises(ValueError, match="the same checkpoint is named twice"):
        type_in("eval", "--ckpt", "runs/two", "--ckpt", "latest")
    moments = map(str, Path("runs/two/checkpoints").glob("step-*"))
    with pytest.raises(ValueError, match="name one of each run"):
        type_in("eval", "--ckpt", "runs/one", *moments)


def test_checkpoints_of_one_run_are_its_course(home: Path) -> None:
    type_in("train", *SETTINGS, "--out", "runs/course", "train.epochs=2", "train.checkpoint_every=1")
    moments = sorted(map(str, Path("runs/course/checkpoints").glob("step-*")))
    said = type_in("eval", "--ckpt", *moments, "--json", "course.json")
    assert said.count("evaluated runs/course/checkpoints/step-") == len(moments) == 2
    found = json.loads(Path("course.json").read_text())
    assert [one["checkpoint"] for one in found["checkpoints"]] == moments


Said = Callable[[Exception], str]


@pytest.fixture
def said_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """`said_on(error)`: what stands on the terminal when a command has failed by it."""

    def run(error: Exception) -> str:
        def fail(**options: object) -> None:
            raise error

        monkeypatch.setattr(__main__, "app", fail)
        with pytest.raises(SystemExit) as left:
            __main__.main()
        assert left.value.code == 1
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_lack_of_memory_is_said_in_one_line(error: Exception, said_on: Said) -> None:
    said = said_on(error)
    assert said.startswith("tcc-fast: out of memory (")
    assert "smaller train.batch_size" in said
    assert said.count("\n") == 1


def test_a_gpu_that_torch_has_no_code_for_is_said_in_one_line(said_on: Said) -> None:
    said = said_on(RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel"))
    assert said.startswith("tcc-fast: torch cannot use this GPU (CUDA error: no kernel image")
    assert "install a torch" in said
    assert said.count("\n") == 1


def test_what_can_be_done_when_compiling_fails_is_said_behind_the_traceback(said_on: Said) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise FileNotFoundError("libcuda.so cannot be found!")

    with pytest.raises(RuntimeError) as failed:
        torch.compile(torch.sin, backend=broken)(torch.zeros(1))
    said = said_on(failed.value)
    assert "libcuda.so cannot be found!" in said
    last = said.strip().splitlines()[-1]
    assert last.startswith("tcc-fast: compiling failed (BackendCompilerFailed): with train.compile=off")


def from_triton() -> Exception:
    """An error of another kind than Triton's own, by what it could not do."""
    code = compile("def build(): raise RuntimeError('Failed to find C compiler')", "build.py", "exec")
    module: dict[str, Any] = {"__name__": "triton.runtime.build"}
    exec(code, module)
    with pytest.raises(RuntimeError) as failed:
        module["build"]()
    return failed.value


@pytest.mark.parametrize("error", [from_triton(), ModuleNotFoundError("No module named 'triton'", name="triton")])
def test_what_triton_lacks_is_a_matter_of_compiling(error: Exception, said_on: Said) -> None:
    said = said_on(error)
    assert str(error) in said
    assert f"tcc-fast: compiling failed ({type(error).__name__}): with train.compile=off" in said


def test_another_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(__main__, "app", fail)
    with pytest.raises(RuntimeError, match="something else"):
        __main__.main()


def test_train_without_data_says_how_to_get_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="make one with `tcc-fast convert digits`"):
        type_in("train")


def test_train_with_several_data_sets_lists_them(home: Path, digits: Path) -> None:
    (home / "data" / "more").symlink_to(digits)
    with pytest.raises(ValueError, match="several data sets: data/digits, data/more. Choose one with --data"):
        type_in("train")


def test_resume_auto_continues_a_run_with_its_own_settings_and_data(home: Path, digits: Path) -> None:
    own = ["train.checkpoint_every=1", "train.epochs=2", "loss.alpha=0.3"]
    type_in("train", "--config", "digits", *SETTINGS, *own, "--out", "runs/one")
    (home / "data" / "more").symlink_to(digits)  # which data set it was is no question any more
    again = ["train", "--resume", "auto", "--out", "runs/one"]
    assert "continuing runs/one/checkpoints/step-000000014 at step 14 of 14" in type_in(*again)
    assert load_config("runs/one/config.yaml").loss.alpha == 0.3
    Image.new("L", (4, 4)).save("runs/one/curve.png")  # of the user's, made of its metrics
    assert "continuing" in type_in(*again, "train.log_every=3", "loss.alpha=0.3")
    assert load_config("runs/one/config.yaml").train.log_every == 2  # by which it was trained, to its end
    with pytest.raises(ValueError, match=r"other settings: loss\.alpha was 0\.3, now 0\.4"):
        type_in(*again, "loss.alpha=0.4")
    with pytest.raises(ValueError, match=r"other settings: .*model\.feature_dim was 16, now 128"):
        type_in(*again, "--config", "digits", "--data", "data/digits", "train.precision=fp32")
    with pytest.raises(ValueError, match="several data sets"):  # a run that is not there has none of its own
        type_in("train", "--resume", "auto", "--out", "runs/two")


def test_resume_auto_needs_a_folder(home: Path) -> None:
    with pytest.raises(ValueError, match="--resume auto needs --out"):
        type_in("train", "--resume", "auto")


def test_convert_writes_under_data_and_says_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "1797 images in 10 classes" in type_in("convert", "digits")
    assert (tmp_path / "data" / "digits" / "dataset.json").is_file()
    with pytest.raises(ValueError, match="max-rejected"):
        type_in("convert", "digits", "--max-rejected", "few")
    with pytest.raises(ValueError, match="formats names 'zip'"):
        type_in("convert", "digits", "--formats", "zip")


@pytest.mark.parametrize("arguments", [["eval", "--ckpt", "nowhere"], ["train", "--config", "digit"]])
def test_a_mistake_is_one_line_on_stderr_without_a_traceback(arguments: list[str], tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tcc_fast", *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert finished.returncode == 1
    assert re.fullmatch(r"tcc-fast: [^\n]+\n", finished.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "--batch-size", "32"], "without dashes: train.batch_size=32"),
        (["train", "--train.epochs=7", "seed=1"], "without dashes: train.epochs=7"),
        (["train", "--lr"], "optim.lr=VALUE"),
        (["train", "--seed", "--out", "x"], "seed=VALUE"),
        (["train", "--method", "kmeans"], "start.method=kmeans"),
        (["train", "--temperature", "0.2"], "loss.temperature=0.2"),
        (["train", "--wings"], "as KEY=VALUE, without dashes, such as train.batch_size=32"),
        (["bench", "step", "--epochs", "3"], "train.epochs=3"),
        (["bench", "pipelines", "--workers", "3"], "data.workers=3"),
    ],
)
def test_a_setting_typed_as_an_option_is_answered_with_its_key(command: list[str], said: str) -> None:
    printed = " ".join(type_in(*command).replace("│", " ").split())
    assert "No such option" in printed
    assert said in printed


def test_other_mistakes_with_options_are_answered_as_ever() -> None:
    assert "KEY=VALUE, without" not in type_in("eval", "--epochs", "3")
    assert "KEY=VALUE, without" not in type_in("bench", "step", "--rounds", "few")


@pytest.mark.parametrize("command", [["train"], ["bench", "step"], ["bench", "pipelines"]])
def test_help_says_which_config_own_images_get(command: list[str]) -> None:
    printed = " ".join(type_in(*command, "--help").replace("│", " ").split())
    assert "the one named as the data set, else `folder`." in printed


def test_accelerate_launch_trains(home: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "tcc_fast"]
    finished = subprocess.run([*launch, "train", *SETTINGS], cwd=home, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "done: runs/digits-" in finished.stdout


def test_version() -> None:
    assert re.match(r"tcc-fast \d+\.\d+", type_in("--version"))


def test_a_result_file_in_a_missing_folder_is_refused_before_any_work(home: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere does not exist; make it first"):
        type_in("eval", "--ckpt", "latest", "--json", "nowhere/result.json")


def test_a_checkpoint_that_lies_in_no_run_is_not_continued(home: Path) -> None:
    type_in("train", *SETTINGS, "--out", "runs/one")
    (newest,) = (home / "runs" / "one" / "checkpoints").glob("step-*")
    newest.rename(home / "alone")
    with pytest.raises(ValueError, match="alone lies in no run folder"):
        type_in("train", "--resume", "alone")


def test_the_help_says_that_going_back_removes_what_is_later() -> None:
    assert "one of its checkpoints later ones are removed" in " ".join(re.findall(r"\w+", type_in("train", "--help")))
