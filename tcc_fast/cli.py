"""The command line: ``tcc-fast convert``, ``train``, ``config``, ``eval``, ``assign``, ``bench``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tcc_fast import __version__
from tcc_fast.datasets.manifest import Manifest
from tcc_fast.datasets.reader import READERS
from tcc_fast.outputs import check_outputs
from tcc_fast.own_pictures import refuse_pictures
from tcc_fast.typed_options import TakesSettings
from tcc_fast.whole_file import write_whole

app = typer.Typer(
    name="tcc-fast",
    help="Twin-contrast clustering (TCC) of unlabelled images, at the speed of the hardware.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench_app = typer.Typer(help="Measure how fast things are on this machine.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")
DatasetName = typer.Argument(metavar="NAME", help=f"Where the images come from: {', '.join(READERS)}.")
ConfigName = typer.Option(
    help="A built-in config or a YAML file; default: the one named as the data set, else `folder`."
)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"tcc-fast {__version__}")
        raise typer.Exit


@app.command()
def convert(
    name: Annotated[str, DatasetName],
    out: Annotated[Path | None, typer.Option(help="Data set folder to make; default: data/NAME.")] = None,
    src: Annotated[
        Path | None,
        typer.Option(help="The raw images: a folder, or a paper data set's archive or folder; glyphs: fonts."),
    ] = None,
    short_side: Annotated[
        int | None,
        typer.Option(help="Reduce images to this short side in pixels (and to 4:1, by cropping); 0 keeps their size."),
    ] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality of what is encoded anew.")] = 95,
    labels: Annotated[
        str,
        typer.Option(
            help="auto, none, folders or partial. folders: the first of a path is its class; partial: the unlabelled "
            "images of stl10, too."
        ),
    ] = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes; default: one per core.")] = None,
    max_rejected: Annotated[
        str | None,
        typer.Option(
            help="Images that may be rejected: a count (20) or a share (0.1); default: 0.5, none of a paper data set."
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(help="tar; tar,beton adds the file that FFCV reads; files leaves images in place."),
    ] = "tar",
    overwrite: Annotated[bool, typer.Option(help="Replace the data set that is there.")] = False,
    allow_incomplete: Annotated[
        bool, typer.Option(help="Take a paper data set (or few fonts) as it is; what is missing is recorded.")
    ] = False,
    md5: Annotated[bool, typer.Option(help="Compare the MD5 of even a very large archive: reads it whole.")] = False,
) -> None:
    """Convert raw images to a packed data set folder."""
    from tcc_fast.datasets import convert as convert_images

    report = convert_images(
        name,
        out,
        src,
        short_side=short_side,
        quality=quality,
        labels=labels,  # type: ignore[arg-type]  # checked there
        workers=workers,
        max_rejected=None if max_rejected is None else _count_or_share(max_rejected),
        formats=formats,
        overwrite=overwrite,
        allow_incomplete=allow_incomplete,
        md5=md5,
    )
    typer.echo(report.summary())


def _count_or_share(text: str) -> int | float:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise ValueError(f"--max-rejected is {text!r}, but must be a count (20) or a share (0.1)") from None


@app.command(cls=TakesSettings)
def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as seed=1.")
    ] = None,
    config: Annotated[str | None, ConfigName] = None,
    data: Annotated[Path | None, typer.Option(help="Data set folder; default: the one under data/.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/NAME-DATE-TIME.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|auto",
            help="Continue a run (a folder, or `latest`), or one of its checkpoints: later ones are removed. "
            "`auto` with --out continues a run or starts it.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="S,S,...", help="Train a run for each of these seeds; the best is chosen without labels."),
    ] = None,
) -> None:
    """Train TCC on a packed data set."""
    from tcc_fast.datasets.manifest import read_manifest
    from tcc_fast.distributed import decide, leave, processes
    from tcc_fast.plan import plan_run, point_latest_at
    from tcc_fast.train import train as train_run

    if resume is not None and resume.startswith("-"):  # the next option, where a run was left out
        raise ValueError("--resume wants to know which run: --resume latest, --resume RUN, or --resume auto with --out")
    plan = plan_run(config, data, out, resume, overrides or [])
    if seeds is not None and any(setting.partition("=")[0].strip() == "seed" for setting in overrides or []):
        raise ValueError("--seeds and seed= say two things: leave one of them out")
    manifest = decide(lambda: read_manifest(plan.data)[0])  # now: the folder may be gone when all is done
    if seeds is not None:
        from tcc_fast.seeds import parse_seeds, refuse_a_single_one, train_seeds

        chosen = parse_seeds(seeds)
        refuse_a_single_one(chosen, plan.run)
        done = train_seeds(plan, chosen, typer.echo).best
    else:
        done = train_run(
            plan.config, plan.data, plan.run, plan.resume, plan.checkpoint, on_start=lambda: point_latest_at(plan.run)
        )
    if processes().is_main_process:
        typer.echo(f"done: {done}\n{_what_next(plan.run, manifest)}")
    leave()


def _what_next(run: Path, manifest: Manifest) -> str:
    ckpt = f"--ckpt {shlex.quote(str(run))}"
    lines = [f"evaluate it with: tcc-fast eval {ckpt}"] if manifest.has_labels else []
    if not manifest.has_labels or manifest.name == "folder":  # whose folders may be no classes
        lines.append(f"see its clusters with: tcc-fast assign {ckpt} --out clusters.csv --sheets sheets")
    return "\n".join(lines)


@app.command(name="config")
def config_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A built-in config or a YAML file; default: the defaults.")
    ] = None,
) -> None:
    """Print every setting, with what it is for, as YAML that --config reads."""
    from tcc_fast.commented_yaml import commented_yaml, read_reasons
    from tcc_fast.config import load_config, read_text
    from tcc_fast.settings import Config

    if name is None:
        typer.echo(commented_yaml(Config()), nl=False)
    else:
        typer.echo(commented_yaml(load_config(name), read_reasons(read_text(name))), nl=False)


@app.command(name="eval")
def evaluate_command(
    more: Annotated[list[str] | None, typer.Argument(metavar="RUN", help="More of what --ckpt takes.")] = None,
    ckpt: Annotated[
        list[str] | None,
        typer.Option(
            help="A run, a checkpoint folder, or `latest`; several runs give mean and deviation, several checkpoints "
            "of one run its course."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data set folder; default: the one trained on.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Which of the data set's splits; default: the one trained on.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
    confusion: Annotated[Path | None, typer.Option(help="Also write clusters by classes to this CSV file.")] = None,
    kmeans_features: Annotated[bool, typer.Option(help="Also run k-means on the features.")] = True,
    kmeans_pixels: Annotated[bool, typer.Option(help="Also run k-means on the pixels.")] = False,
    spectral_features: Annotated[
        bool, typer.Option(help="Also cluster the features as a spectral start does.")
    ] = False,
    linear_probe: Annotated[bool, typer.Option(help="Also train a linear classifier on the features.")] = False,
    agreement: Annotated[
        bool, typer.Option(help="Also see how often two augmented views of an image get the same cluster.")
    ] = False,
) -> None:
    """Evaluate the clusters of a checkpoint, or of several."""
    from tcc_fast.distributed import leave, processes
    from tcc_fast.evaluation.evaluate import evaluate, write_confusion
    from tcc_fast.evaluation.report import (
        check_mean,
        course,
        show_course,
        show_evaluation,
        show_summary,
        summarise_runs,
    )
    from tcc_fast.runs.checkpoint_folder import are_of_one_run, find_checkpoint

    runs = [*(ckpt or ()), *(more or ())]
    if not runs:
        raise ValueError("say which run to evaluate: tcc-fast eval --ckpt latest")
    if confusion is not None and len(runs) > 1:
        raise ValueError("--confusion is of one checkpoint: give one --ckpt")
    check_outputs(json_file, confusion)
    chosen = {
        "kmeans_features": kmeans_features,
        "spectral_features": spectral_features,
        "kmeans_pixels": kmeans_pixels,
    }
    baselines = tuple(name for name, wanted in chosen.items() if wanted)
    console = Console(highlight=False)
    of_one_run = are_of_one_run(map(find_checkpoint, runs)) and len(runs) > 1  # refused now, not after all the work
    if len(runs) > 1 and not of_one_run:
        check_mean(map(find_checkpoint, runs), given=bool(data or split))
    results = []
    is_main = processes().is_main_process  # several processes share the images; one says what came of it
    for one in runs:
        results.append(evaluate(one, data, split, baselines, linear_probe, agreement, confusion is not None))
        if is_main and of_one_run:
            typer.echo(f"evaluated {results[-1].checkpoint}")
        elif is_main:
            show_evaluation(results[-1], console)
    leave()
    if not is_main:
        return
    if len(results) > 1:
        (show_course if of_one_run else show_summary)(results, console)
    if confusion is not None:
        write_confusion(results[0], confusion)
    if json_file is not None:
        several = course if of_one_run else summarise_runs
        content = results[0].to_json() if len(results) == 1 else several(results)
        write_whole(json_file, json.dumps(content, indent=2) + "\n")


@app.command(name="assign")
def assign_command(
    out: Annotated[Path, typer.Option(help="CSV file to write: index, source, cluster, confidence; or - to print it.")],
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The same as --ckpt.")] = None,
    ckpt: Annotated[str | None, typer.Option(help="A run, a checkpoint folder, or `latest`.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data set folder, also of other images; default: the one trained on.")
    ] = None,
    sheets: Annotated[
        Path | None, typer.Option(help="Also write a sheet of each cluster's images, surest first, to this folder.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Also write features and assignments to this safetensors file.")
    ] = None,
    sort: Annotated[
        Path | None, typer.Option(help="Also make this folder, with links to the images' files, a folder a cluster.")
    ] = None,
    src: Annotated[Path | None, typer.Option(help="For --sort: the folder that was converted.")] = None,
    split: Annotated[str, typer.Option(help="Which of the data set's splits.")] = "all",
) -> None:
    """Say of every image which cluster it is in."""
    from tcc_fast.distributed import leave, processes
    from tcc_fast.evaluation.clusters import SHEET, write_clusters

    named = [one for one in (run, ckpt) if one is not None]
    if len(named) != 1:
        raise ValueError("say which run has the clusters, once: tcc-fast assign --ckpt latest --out clusters.csv")
    piped = str(out) == "-"
    check_outputs(None if piped else out, features)
    results = {"--out": out, "--features": features, "--sheets": sheets, "--sort": sort}
    places = [place.absolute() for place in results.values() if place is not None]
    if len(set(places)) < len(places):
        raise ValueError(f"two of {', '.join(results)} are the same: give each a name of its own")
    if sheets is not None and sheets.exists() and not sheets.is_dir():
        raise ValueError(f"--sheets {sheets}: it is a file, but must be a folder")
    if sheets is not None:
        refuse_pictures("--sheets", sheets, but=SHEET)
    if src is not None and sort is None:
        raise ValueError("--src is for --sort, which makes a folder of links: give both, or neither")
    if features is not None and features.suffix != ".safetensors":
        raise ValueError(f"--features {features}: it writes safetensors, so the name must end in .safetensors")
    sizes = write_clusters(named[0], out, data, sheets, features, split, sort, src)
    if processes().is_main_process:
        used = sum(size > 0 for size in sizes)
        written = ", ".join(str(place) for place in results.values() if place is not None and str(place) != "-")
        found = f"{sum(sizes):,} images in {used} cluster{'' if used == 1 else 's'}"
        typer.echo(f"{written}: {found}" if written else found, err=piped)
    leave()


@bench_app.command("pipelines", cls=TakesSettings)
def bench_pipelines(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as data.workers=8.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data set folder; default: the one under data/.")] = None,
    config: Annotated[str | None, ConfigName] = None,
    rounds: Annotated[int, typer.Option(help="How many; in each, every pipeline has one turn.")] = 5,
    seconds: Annotated[float, typer.Option(help="Length of a turn, at least.")] = 3.0,
    only: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Only these pipelines; default: all that are installed.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every turn to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw a bar chart: an SVG file.")] = None,
) -> None:
    """Compare the pipelines on your images: resident, ffcv, dali, torch, and decoding alone."""
    from tcc_fast.bench import PIPELINES, Task, check_options, compare, openers
    from tcc_fast.bench.plot import comparison_svg
    from tcc_fast.bench.show import end_saying, say_on_stderr, show_comparison

    check_options(rounds, seconds)
    check_outputs(json_file, plot)
    if plot is not None and plot.suffix != ".svg":
        raise ValueError(f"--plot {plot}: it draws SVG, so the name must end in .svg")
    names = PIPELINES if only is None else tuple(name.strip() for name in only.split(","))

    from tcc_fast.datasets import open_dataset
    from tcc_fast.distributed import processes
    from tcc_fast.plan import plan_run
    from tcc_fast.precision import resolve_precision

    plan = plan_run(config, data, None, None, overrides or [])
    device = processes().device
    precision = resolve_precision(plan.config.train.precision, device)
    task = Task(open_dataset(plan.data), plan.config, device, precision)
    result = compare(task, openers(task, names), rounds, seconds, say_on_stderr)
    end_saying()
    show_comparison(result, Console(highlight=False))
    if json_file is not None:
        write_whole(json_file, json.dumps(result, indent=1) + "\n")
    if plot is not None:
        write_whole(plot, comparison_svg(result))


@bench_app.command("step", cls=TakesSettings)
def bench_step_command(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as train.batch_size=1024."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data set folder; default: the one under data/.")] = None,
    config: Annotated[str | None, ConfigName] = None,
    rounds: Annotated[int, typer.Option(help="How many; in each, every contender has one turn.")] = 3,
    seconds: Annotated[float, typer.Option(help="Length of a turn, at least.")] = 3.0,
    plain: Annotated[bool, typer.Option(help="Also measure the plain version: eager, fp32, PIL DataLoader.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every turn to this file.")] = None,
) -> None:
    """Measure the training step: whole, part by part, and against what the device allows."""
    from tcc_fast.bench import Task, check_options
    from tcc_fast.bench.show import end_saying, say_on_stderr
    from tcc_fast.bench.show_step import show_step
    from tcc_fast.bench.step import bench_step
    from tcc_fast.bench.stepping import StepTask

    check_options(rounds, seconds)
    check_outputs(json_file)

    from tcc_fast.compiling import compile_mode
    from tcc_fast.datasets import open_dataset
    from tcc_fast.distributed import processes
    from tcc_fast.plan import plan_run
    from tcc_fast.precision import resolve_precision
    from tcc_fast.session import with_num_clusters

    plan = plan_run(config, data, None, None, overrides or [])
    device = processes().device
    dataset = open_dataset(plan.data)
    settings = with_num_clusters(plan.config, dataset)
    compiling = compile_mode(settings.train.compile, device, 1)
    task = Task(dataset, settings, device, resolve_precision(settings.train.precision, device))
    result = bench_step(StepTask(task, compiling), rounds, seconds, plain, say=say_on_stderr)
    end_saying()
    show_step(result, Console(highlight=False))
    if json_file is not None:
        write_whole(json_file, json.dumps(result, indent=1) + "\n")
