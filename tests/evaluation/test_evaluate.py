"""Evaluation: with labels, without, with dead clusters, with K unlike the number of classes."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.cluster import KMeans
from typer.testing import CliRunner

from tcc_fast.cli import app
from tcc_fast.config import load_config
from tcc_fast.datasets import Dataset, convert, open_dataset
from tcc_fast.datasets.manifest import UNLABELLED
from tcc_fast.evaluation import evaluate as evaluating
from tcc_fast.evaluation import trained
from tcc_fast.evaluation.embed import embed
from tcc_fast.evaluation.evaluate import evaluate, write_confusion
from tcc_fast.evaluation.label_free import label_free_scores
from tcc_fast.evaluation.metrics import score
from tcc_fast.evaluation.report import check_mean, course, show_course, show_evaluation, show_summary, summarise_runs
from tcc_fast.evaluation.trained import Trained, open_trained
from tcc_fast.method.start import spectral_centres
from tcc_fast.notice import Notice
from tcc_fast.runs.checkpoint import load_model
from tcc_fast.runs.checkpoint_folder import find_checkpoint
from tcc_fast.runs.run_state import read_state
from tcc_fast.train import train
from tests.conftest import TINY


def shown(result: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    show_evaluation(result, console)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run with 13 clusters for 10 classes."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(
        load_config("digits", [*TINY, "train.epochs=1", "start.method=none", "model.num_clusters=13"]), digits, folder
    )
    return folder


def test_k_unlike_the_number_of_classes(run: Path) -> None:
    result = evaluate(run)
    assert (result.num_clusters, result.num_classes) == (13, 10)
    assert len(result.cluster_sizes) == 13
    assert result.scores is not None
    assert 0 < result.scores["acc"] < 1
    assert "K is 13 and there are 10 classes" in shown(result)


def test_dead_clusters_are_counted_and_harm_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_three(*arguments: object, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
        features, pi = embed(*arguments, **options)  # type: ignore[arg-type]
        pi[:, 3:] = 0
        return features, pi

    monkeypatch.setattr("tcc_fast.evaluation.trained.embed", only_three)
    result = evaluate(run)
    assert result.clusters_used == 3
    assert result.cluster_sizes[3:] == [0] * 10
    assert result.scores is not None
    assert result.scores["acc"] <= 0.4


def test_one_cluster_has_no_silhouette(run: Path) -> None:
    result = evaluate(run)
    nothing = replace(result, label_free=result.label_free | {"silhouette": float("nan")})
    assert "without labels: silhouette none, confidence 0." in shown(nothing)
    assert nothing.to_json()["label_free"]["silhouette"] is None


def test_without_labels_it_says_so_and_shows_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for shade in range(20):
        Image.new("RGB", (24, 20), (shade * 12, 255 - shade * 12, 9)).save(images / f"{shade}.jpg")
    convert("folder", tmp_path / "set", images, progress=False)
    settings = [*TINY, "train.batch_size=8", "model.num_clusters=3", "start.method=none", "data.image_size=16"]
    train(load_config("folder", settings), tmp_path / "set", tmp_path / "run")
    assert "set: 20 images into 3 clusters\n" in capsys.readouterr().out  # own images: as their folder
    result = evaluate(tmp_path / "run")
    assert shown(result).startswith("set: 20 images")
    json = result.to_json()
    assert (json["acc"], json["nmi"], json["ari"], json["num_classes"]) == (None, None, None, None)
    assert json["kmeans_features"] == {"acc": None, "nmi": None, "ari": None}
    assert sum(json["cluster_sizes"]) == json["n"] == 20
    assert "no labels" in shown(result)
    with pytest.raises(ValueError, match="there is no --kmeans-pixels or --spectral-features: leave it out"):
        evaluate(tmp_path / "run", baselines=("spectral_features", "kmeans_pixels"))


def test_other_data_is_told_from_the_data_trained_on(run: Path, tmp_path: Path) -> None:
    assert evaluate(run).same_data
    convert("digits", tmp_path / "again", progress=False)
    assert evaluate(run, tmp_path / "again").same_data  # the same bytes elsewhere are the same data
    images = tmp_path / "images"
    images.mkdir()
    for shade in range(20):
        Image.new("RGB", (24, 20), (shade * 12, 0, 9)).save(images / f"{shade}.png")
    convert("folder", tmp_path / "set", images, progress=False)
    assert not evaluate(run, tmp_path / "set", baselines=()).same_data


def test_products_round_as_in_training(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned: list[tuple[str, str]] = []
    monkeypatch.setattr(trained, "tune", lambda device, precision: tuned.append((device.type, precision)))
    evaluate(str(run), baselines=())
    assert tuned == [("cpu", read_state(find_checkpoint(run)).precision)]


def test_inference_is_deterministic_whatever_the_batch_size(run: Path, digits: Path) -> None:
    checkpoint = find_checkpoint(run)
    config = read_state(checkpoint).config
    model, dataset = load_model(checkpoint, config), open_dataset(digits)
    indices = range(100)
    features, pi = embed(model, dataset, indices, 8, torch.device("cpu"), batch_size=100)
    again, _ = embed(model, dataset, indices, 8, torch.device("cpu"), batch_size=7)
    torch.testing.assert_close(features, again, rtol=0, atol=1e-5)
    torch.testing.assert_close(pi.sum(dim=1), torch.ones(100))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(100))


def test_over_clustering_names_both_accuracies(run: Path) -> None:
    result = evaluate(run)
    assert result.scores is not None
    assert result.acc_majority is not None
    assert result.acc_majority >= result.scores["acc"]
    assert "each cluster by its majority class" in shown(result)


def test_linear_probe_and_confusion(run: Path, digits: Path, tmp_path: Path) -> None:
    result = evaluate(run, baselines=(), linear_probe=True, confusion=True)
    assert result.linear_probe is not None
    assert result.linear_probe > 0.5  # even untrained features of digits tell them apart, given labels
    assert "linear probe" in shown(result)
    write_confusion(result, tmp_path / "confusion.csv")
    header, *rows = (line.split(",") for line in (tmp_path / "confusion.csv").read_text().splitlines())
    assert header == ["cluster", *"0123456789"]
    table = np.array(rows, dtype=int)[:, 1:]
    assert table.sum(axis=1).tolist() == result.cluster_sizes
    labels = open_dataset(digits).labels()
    assert labels is not None
    assert table.sum(axis=0).tolist() == np.bincount(labels).tolist()


def test_spectral_clusters_are_what_pi_says_after_a_spectral_start(run: Path) -> None:
    result = evaluate(run, baselines=("spectral_features",))
    opened = open_trained(run)
    labels = opened.dataset.labels()
    assert labels is not None
    start, seed = opened.state.config.start, opened.state.config.seed
    centres = spectral_centres(opened.embed()[0], result.num_clusters, start.restarts, seed, start.neighbours)
    opened.model.set_prototypes(centres)
    found = opened.embed()[1].argmax(dim=1).numpy()
    assert result.baselines == {"spectral_features": score(labels, found)}
    assert result.scores != score(labels, found)


def test_scores_are_of_the_images_that_have_a_label(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_trained(run)
    labels = opened.dataset.labels()
    assert labels is not None
    features, assignment = opened.embed()
    found = assignment.argmax(dim=1).numpy()
    labels[labels == 3] = labels[::7] = UNLABELLED
    known = labels != UNLABELLED
    monkeypatch.setattr(Dataset, "labels", lambda self: labels.copy())
    result = evaluate(run, baselines=("kmeans_features", "kmeans_pixels"), confusion=True)
    assert (result.n, result.n_labelled, sum(result.cluster_sizes)) == (1797, known.sum(), 1797)
    assert result.scores == score(labels[known], found[known])
    seed = opened.state.config.seed
    kmeans = KMeans(result.num_clusters, n_init=10, random_state=seed)
    assert result.baselines["kmeans_features"] == score(labels[known], kmeans.fit_predict(features.numpy())[known])
    pixels = np.stack([opened.dataset.decode(index) for index in np.flatnonzero(known)]).reshape(known.sum(), -1)
    assert result.baselines["kmeans_pixels"] == score(labels[known], kmeans.fit_predict(pixels.astype(np.float32)))
    assert result.confusion is not None
    assert result.confusion.sum(axis=0).tolist() == np.bincount(labels[known], minlength=10).tolist()
    stream = io.StringIO()
    show_evaluation(result, Console(file=stream, width=100))
    assert f"scores are of the {known.sum():,} images that have a label" in stream.getvalue()

    labels[:] = UNLABELLED
    labels[5] = 2
    result = evaluate(run, baselines=("kmeans_features", "kmeans_pixels"))  # fewer of them than clusters
    assert result.scores is not None
    assert (result.baselines["kmeans_features"] is None, result.baselines["kmeans_pixels"]) == (False, None)
    labels[5] = UNLABELLED
    assert evaluate(run).scores is None
    with pytest.raises(ValueError, match=r"split all of .* has no labels, without which there is no --confusion"):
        evaluate(run, confusion=True)


def test_baselines_and_the_probe_are_the_main_ranks_work(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "rank", lambda: 1)
    monkeypatch.setattr(evaluating, "KMeans", None)  # not called
    result = evaluate(run, baselines=("kmeans_features", "kmeans_pixels"), linear_probe=True)
    assert result.baselines == {"kmeans_features": None, "kmeans_pixels": None}
    assert result.linear_probe is None
    assert result.scores is not None


def test_an_unknown_split_names_those_that_exist(run: Path) -> None:
    with pytest.raises(ValueError, match="has no split 'test': it has all"):
        evaluate(run, split="test")


def test_several_checkpoints_give_mean_and_sample_deviation(run: Path) -> None:
    one = evaluate(run, baselines=())
    assert one.scores is not None
    other = replace(
        one, scores={**one.scores, "acc": one.scores["acc"] + 0.02}, seed=1, checkpoint=Path("other/step-1")
    )
    with pytest.raises(ValueError, match="the same checkpoint is named twice"):
        summarise_runs([one, one])
    with pytest.raises(ValueError, match="moments of one run"):
        summarise_runs([one, replace(one, checkpoint=one.checkpoint.with_name("step-000000001"))])
    summary = summarise_runs([one, other])
    assert summary["acc"] == pytest.approx(one.scores["acc"] + 0.01)
    assert summary["acc_std"] == pytest.approx(0.02 / 2**0.5)
    assert summary["nmi_std"] == 0
    assert [run["seed"] for run in summary["runs"]] == [0, 1]
    with pytest.raises(ValueError, match="different images"):
        summarise_runs([one, replace(other, n=3)])
    with pytest.raises(ValueError, match=r"different numbers of clusters \(13, 20\)"):
        summarise_runs([one, replace(other, num_clusters=20)])


def test_runs_on_different_images_are_refused_before_any_is_evaluated(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "other", symlinks=True)
    monkeypatch.setattr("tcc_fast.evaluation.evaluate.evaluate", lambda *_: pytest.fail("the work has begun"))
    state = find_checkpoint(tmp_path / "other") / "state.json"
    content = json.loads(state.read_text())
    content["dataset"]["num_images"] += 1
    state.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="are of different images: give --data"):
        CliRunner().invoke(app, ["eval", str(run), str(tmp_path / "other")], catch_exceptions=False)
    content["config"]["model"]["num_clusters"] += 1
    state.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"different numbers of clusters \(13, 14\)"):
        CliRunner().invoke(app, ["eval", str(run), str(tmp_path / "other"), "--split", "all"], catch_exceptions=False)


def test_images_that_cannot_be_decoded_count_nowhere(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, gone = Dataset.decode, {5, 1700}

    def damaged(self: Dataset, index: int) -> np.ndarray:
        if index in gone:
            raise ValueError(f"image {index} cannot be decoded")
        return decode(self, index)

    trained = open_trained(run)
    seen = [index for index in range(1797) if index not in gone]
    features, assignment = (rows[seen] for rows in trained.embed())
    labels = trained.dataset.labels()
    assert labels is not None
    monkeypatch.setattr(Dataset, "decode", damaged)
    with pytest.warns(RuntimeWarning, match="cannot be decoded"):
        found = evaluate(run, baselines=("kmeans_features", "kmeans_pixels"), confusion=True)
    assert found.n == found.n_labelled == sum(found.cluster_sizes) == 1795
    assert found.scores == score(labels[seen], assignment.argmax(dim=1).numpy())
    assert found.label_free == label_free_scores(features, assignment)
    assert found.confusion is not None
    assert found.confusion.sum() == 1795
    assert found.baselines["kmeans_pixels"] is not None


def test_checkpoints_of_one_run_are_its_course(run: Path) -> None:
    last = replace(evaluate(run), linear_probe=0.5)
    assert last.scores is not None
    first = replace(last, step=3, scores={**last.scores, "acc": 0.125}, checkpoint=Path("step-3"))
    first = replace(first, label_free={**last.label_free, "silhouette": math.nan})
    found = course([last, first])
    assert [one["step"] for one in found["checkpoints"]] == [3, last.step]
    assert found["checkpoints"][0]["acc"] == 0.125
    assert (found["n"], found["num_classes"]) == (1797, 10)
    stream = io.StringIO()
    show_course([last, first], Console(file=stream, width=40))  # as narrow as it may be
    rows = [re.findall(r"[\w.-]+", line) for line in stream.getvalue().splitlines() if re.match(r" *\d+ +\d", line)]
    kmeans = last.baselines["kmeans_features"]
    assert kmeans is not None
    assert [row[0] for row in rows] == ["3", f"{last.step}"]
    assert rows[0][1] == "12.5"
    assert rows[0][4:7] == [f"{100 * kmeans['acc']:.1f}", "50.0", f"{last.clusters_used}"]
    assert rows[0][7] == "none"
    unlabelled = replace(last, scores=None, baselines={"kmeans_features": None}, linear_probe=None)
    show_course([unlabelled, replace(unlabelled, step=3)], Console(file=stream, width=100))
    assert "silhouette" in stream.getvalue()


def test_the_paper_stands_beside_with_gap_and_caution(run: Path) -> None:
    result = replace(evaluate(run, baselines=()), dataset="cifar10", scores={"acc": 0.5, "nmi": 0.4, "ari": 0.3})
    text = shown(result)
    assert re.search(r"paper: TCC +│ 90\.6 +│ 79\.0 +│ 73\.3\*", text)
    assert re.search(r"minus the paper +│ -40\.6 +│ -39\.0 +│ -43\.3", text)
    assert "ProPos+DCBoost" in text
    assert "Not the same task: 1,797 images here, 60,000 there; 8 px here, 32 px there." in text
    assert "unlabelled" not in text
    assert "also trained on the 100,000 unlabelled images" in shown(replace(result, dataset="stl10"))


def test_a_split_is_scored_by_its_own_labels_and_a_k_means_is_of_what_it_says(
    run: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    fits: list[tuple[int, int]] = []

    class Asked(KMeans):
        def fit_predict(self, points: np.ndarray) -> np.ndarray:  # type: ignore[override]
            asked.append(points.shape)
            fits.append((self.n_init, self.random_state))
            return super().fit_predict(points)

    copy = shutil.copytree(digits, tmp_path / "digits")
    manifest = json.loads((copy / "dataset.json").read_text())
    manifest["splits"]["late"] = [1000, 1200]
    (copy / "dataset.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(evaluating, "KMeans", Asked)
    found = evaluate(run, copy, "late", baselines=("kmeans_features", "kmeans_pixels"))
    assert asked == [(200, 16), (200, 3 * 8 * 8)]
    assert fits == [(10, 0)] * 2
    trained = open_trained(run, copy, "late")
    predictions = trained.embed()[1].argmax(dim=1).numpy()
    labels = open_dataset(copy).labels()
    assert labels is not None
    assert found.scores == score(labels[1000:1200], predictions)
    assert found.scores != score(labels[:200], predictions)


def test_a_run_of_one_split_is_evaluated_on_it_and_on_what_it_has_not_seen(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(digits, tmp_path / "digits")
    manifest = json.loads((copy / "dataset.json").read_text())
    manifest["splits"] |= {"test": [0, 500], "train": [500, 1797]}
    (copy / "dataset.json").write_text(json.dumps(manifest))
    started: list[list[int]] = []

    def noted(model: object, dataset: object, indices: list[int], *rest: object) -> object:
        started.append(indices)
        return embed(model, dataset, indices, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("tcc_fast.session.embed", lambda *given, precision: noted(*given, 512, precision))
    train(load_config("digits", [*TINY, "data.split=train"]), copy, tmp_path / "run")
    assert "digits: 1,297 images of split train into 10 clusters\n" in capsys.readouterr().out
    assert started == [list(range(500, 1797))]
    seen, unseen, all_of_it = (evaluate(tmp_path / "run", split=split) for split in (None, "test", "all"))
    assert [(found.split, found.n) for found in (seen, unseen, all_of_it)] == [
        ("train", 1297),
        ("test", 500),
        ("all", 1797),
    ]
    assert [found.to_json()["trained_on_these_images"] for found in (seen, unseen, all_of_it)] == [True, False, False]
    assert "measured on the images it was trained on" in shown(seen)
    assert "measured on split test of the data set that it was trained on, by split train;" in shown(unseen)
    agreement = evaluate(tmp_path / "run", agreement=True).label_free["agreement"]
    assert 0 < agreement <= 1
    with pytest.raises(ValueError, match="is of the images trained on: leave out --split"):
        evaluate(tmp_path / "run", split="test", agreement=True)
    with pytest.raises(ValueError, match="there are only 1297 images"):
        train(load_config("digits", [*TINY, "data.split=train", "model.num_clusters=1500"]), copy, tmp_path / "no")


def test_other_images_are_normalised_as_those_trained_on(run: Path, tmp_path: Path) -> None:
    """By the mean and the deviation of the set trained on: by their own, dark images would look like bright ones."""
    (tmp_path / "dark").mkdir()
    for number in range(12):
        Image.fromarray(np.full((8, 8), number, dtype=np.uint8)).save(tmp_path / "dark" / f"{number:02}.png")
    convert("folder", tmp_path / "set", tmp_path / "dark", short_side=0, progress=False)
    trained = open_trained(run, tmp_path / "set")
    mean, std = (torch.tensor(trained.state.dataset[name]).view(3, 1, 1) for name in ("mean", "std"))
    views = torch.stack([(torch.full((3, 8, 8), number / 255) - mean) / std for number in range(12)])
    with torch.no_grad():
        torch.testing.assert_close(trained.embed()[0], trained.model.features(views), rtol=1e-4, atol=1e-4)


def test_a_linear_probe_says_of_how_many_classes_it_lacks_images() -> None:
    features, labels = np.zeros((16, 2), dtype=np.float32), np.repeat([0, 2, 3, 7], [6, 6, 3, 1])
    with pytest.raises(ValueError, match=r"and 5 images of each, but 2 of 4 have fewer: leave it out"):
        evaluating._linear_probe(features, labels, None)
    with pytest.raises(ValueError, match="but there is one: leave it out"):
        evaluating._linear_probe(features, np.zeros(16, dtype=np.int64), None)


def test_runs_of_one_seed_are_told_apart_by_their_folders(run: Path) -> None:
    one = evaluate(run, baselines=())
    other = replace(one, checkpoint=Path("runs/two/checkpoints/step-000000007"))
    stream = io.StringIO()
    show_summary([one, other], Console(file=stream, width=200))
    assert "runs/two" in stream.getvalue()
    assert "seed" not in stream.getvalue()
    stream = io.StringIO()
    show_summary([one, replace(other, seed=1)], Console(file=stream, width=200))
    assert "seed 1" in stream.getvalue()


def test_runs_of_different_settings_are_named_before_they_are_averaged(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other", symlinks=True)
    file = find_checkpoint(tmp_path / "other") / "state.json"
    content = json.loads(file.read_text())
    content["config"]["loss"]["alpha"], content["config"]["seed"] = 0.25, 5
    file.write_text(json.dumps(content))
    with pytest.warns(Notice, match=r"these runs differ in loss\.alpha: their mean is of no one setting"):
        check_mean([find_checkpoint(run), file.parent], given=False)


def test_a_linear_probe_is_scored_on_what_it_has_not_seen(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of noise: in sample, as many dimensions as images would do."""
    noise = torch.randn(1797, 900, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(Trained, "embed", lambda self, *_: (noise, torch.full((1797, 13), 1 / 13)))
    found = evaluate(run, baselines=(), linear_probe=True).linear_probe
    assert found is not None
    assert found < 0.2
