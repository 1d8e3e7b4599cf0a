"""What a command may write: not where it cannot, and not over what data sets and runs consist of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcc_fast.outputs import check_outputs


@pytest.mark.parametrize(
    ("mark", "file", "what"),
    [
        ("dataset.json", "images.csv", "a data set"),
        ("dataset.json", "dataset.json", "a data set"),
        ("state.json", "model.safetensors", "a checkpoint"),
        ("data.json", "config.yaml", "a run"),
        ("data.json", "metrics.jsonl", "a run"),
    ],
)
def test_a_part_of_a_data_set_or_a_run_is_not_written_over(mark: str, file: str, what: str, tmp_path: Path) -> None:
    for name in (mark, file):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"{file}: is part of {what}, and would be written over"):
        check_outputs(tmp_path / file)


def test_results_lie_in_a_runs_folder_and_are_written_anew(tmp_path: Path) -> None:
    for name in ("data.json", "clusters.csv"):
        (tmp_path / name).write_text("")
    check_outputs(tmp_path / "clusters.csv", tmp_path / "eval.json", None)


def test_another_config_is_no_part_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    check_outputs(tmp_path / "config.yaml")
