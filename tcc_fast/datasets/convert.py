"""`convert`: raw images in, a packed data set folder out."""

from __future__ import annotations

import collections
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from tcc_fast.cores import default_workers
from tcc_fast.datasets.decode import DEFAULT_MAX_PIXELS
from tcc_fast.datasets.encode import MAX_ASPECT, MAX_SHORT_SIDE, NEEDS_CONVERSION, StorageOptions
from tcc_fast.datasets.escape import escape_name
from tcc_fast.datasets.ffcv_import import import_ffcv
from tcc_fast.datasets.manifest import UNLABELLED, Manifest
from tcc_fast.datasets.pool import store_items
from tcc_fast.datasets.progress import show_progress
from tcc_fast.datasets.reader import NOT_AN_IMAGE, Checks, LabelMode, Reader, Rejected, open_reader
from tcc_fast.datasets.walk import UNREADABLE_FOLDER
from tcc_fast.datasets.writer import DEFAULT_SHARD_BYTES, DatasetWriter

FORMATS = ("tar", "beton", "files")
MANY_DARK = 0.1
"""From this share on, nearly black images are spoken of."""


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        path: the data set folder.
        manifest: its manifest.
        rejected: reason -> number of files, most frequent first (`rejected.csv` lists them one by one).
        skipped: what was passed over and counts as no rejection: reason -> count. (Of these, `rejected.csv` lists the
            files that are no images.)
        notes: sentences on how the source was understood.
        source_bytes: size of the stored images in the source: of their files, or of their pixels.
        stored_bytes: size of the same images as stored, without the headers of the tar.
        num_encoded: how many of them were encoded anew as JPEG.
        psnr: what that cost: the peak signal-to-noise ratio in dB against the pixels that were encoded (after
            resizing), over all images encoded anew together. None when nothing was lost.
        num_cropped: how many were cropped at their centre, because they were longer than `encode.MAX_ASPECT`.
        num_unlabelled: images that have no label, where others have one.
        empty_classes: names of classes that have no image.
        num_copies: images that are, as stored, the same bytes as an earlier one.
        num_dark: images that are nearly black.
        seconds: wall time.
    """

    path: Path
    manifest: Manifest
    rejected: Mapping[str, int]
    skipped: Mapping[str, int]
    notes: tuple[str, ...]
    source_bytes: int
    stored_bytes: int
    num_encoded: int
    psnr: float | None
    num_cropped: int
    num_unlabelled: int
    empty_classes: tuple[str, ...]
    num_copies: int
    num_dark: int
    seconds: float

    @property
    def num_images(self) -> int:
        """Images stored."""
        return self.manifest.num_images

    @property
    def num_rejected(self) -> int:
        """Images that could not be taken."""
        return self.manifest.num_rejected

    @property
    def num_bytes(self) -> int:
        """Size of the packed files together."""
        return self.manifest.num_bytes

    def summary(self) -> str:
        """A few lines for people."""
        classes = self.manifest.class_names
        kind = f"in {len(classes)} classes" if self.manifest.has_labels and classes else "without labels"
        if self.num_unlabelled:
            kind = f"{kind}, {self.num_unlabelled} of them without a label"
        lines = [
            f"{self.path}: {self.num_images} images {kind}, {_size(self.num_bytes)}, {self.seconds:.1f} s",
            self._files_line(),
            self._images_line(),
        ]
        if alike := _alike(classes or ()):
            lines.append(f"classes whose names differ in case only: {', '.join(alike)}; rename folders if they are one")
        if self.num_copies:
            lines.append(f"copies: {self.num_copies} of the images are the same as an earlier one, byte by byte")
        if self.num_dark > MANY_DARK * self.num_images:
            lines.append(
                f"nearly black: {self.num_dark} of the images; if files use 12 of 16 bits, stretch these first"
            )
        if self.num_cropped:
            lines.append(f"cropped {self.num_cropped} to {MAX_ASPECT}:1 at the centre (--short-side 0 keeps all)")
        if self.rejected:
            lines.append(f"rejected {self.num_rejected} (see rejected.csv): {_table(self.rejected)}")
        if folders := self.rejected.get(UNREADABLE_FOLDER):
            lines.append(
                f"MISSING: all images of {folders} folder{'s' if folders > 1 else ''} that cannot be read (see "
                "rejected.csv): make them readable and convert again"
            )
        if self.empty_classes:
            lines.append(
                f"classes without a single good image: {', '.join(self.empty_classes)}; K counts them, too, unless "
                "model.num_clusters is given"
            )
        if self.skipped:
            listed = f" ({NOT_AN_IMAGE}: see rejected.csv)" if NOT_AN_IMAGE.reason in self.skipped else ""
            lines.append(f"skipped: {_table(self.skipped)}{listed}")
        return "\n".join([*lines, *self.notes])

    def _files_line(self) -> str:
        manifest = self.manifest
        if manifest.in_place is not None:
            return f"files: none but an index; the images stay in {manifest.in_place}"
        tar = sum(manifest.files[name].bytes for name in (*manifest.shards, *manifest.indexes))
        line = f"files: tar with its index {_size(tar)}"
        return line if manifest.beton is None else f"{line}, beton {_size(manifest.files[manifest.beton].bytes)}"

    def _images_line(self) -> str:
        line = f"images: {_size(self.source_bytes)} in the source, {_size(self.stored_bytes)} as stored; "
        if self.num_encoded == 0:
            return line + "none was encoded anew as JPEG"
        loss = "which lost nothing" if self.psnr is None else f"PSNR {self.psnr:.1f} dB against the pixels encoded"
        return f"{line}{self.num_encoded} encoded anew as JPEG of quality {self.manifest.geometry.quality}, {loss}"


def _alike(names: Sequence[str]) -> list[str]:
    """Names that are the same as another one but for upper and lower case."""
    count = collections.Counter(name.casefold() for name in names)
    return [name for name in names if count[name.casefold()] > 1]


def convert(
    name: str,
    out: str | Path | None = None,
    src: str | Path | None = None,
    *,
    short_side: int | None = None,
    quality: int = 95,
    labels: LabelMode = "auto",
    workers: int | None = None,
    max_rejected: int | float | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    formats: str | Sequence[str] = "tar",
    overwrite: bool = False,
    allow_incomplete: bool = False,
    md5: bool = False,
    progress: bool = True,
) -> ConversionReport:
    """Convert a source to a packed data set folder. Same source and options, same bytes, for any `workers`.

    Args:
        name: one of `tcc_fast.datasets.reader.READERS`.
        out: destination folder, ``data/NAME`` by default.
        src: the raw images. The paper's data sets: the official archive, the folder that holds it, or the
            extracted folder; None looks in the usual places (`tcc_fast.datasets.official`). glyphs: a folder of
            fonts; None takes those of installed packages.
        short_side: images are reduced to this many pixels on the short side (never enlarged), and cropped
            at the centre to an aspect of 4 at most; 0 keeps every image at its size. None: the reader's
            default.
        quality: JPEG quality, 1..100, of images that are encoded anew.
        labels: "auto" finds classes where the source has them, "none" stores none, "folders" takes the first
            folder of each path as the class (reader `folder` only), "partial" also takes unlabelled images (`stl10`).
        workers: processes; 0 or 1 works in this one. None: one a core, or none for small sets.
        max_rejected: how many images may be rejected: a count (int) or a share of all (float, 0..1).
            None: half of them, but none of a data set of the paper, unless it may be incomplete. Files of a folder
            that are no images at all do not count.
        max_pixels: larger images are rejected before they are decoded.
        shard_bytes: upper limit for one tar shard.
        formats: some of `FORMATS`, in a list or separated by commas: "beton" adds the file that FFCV reads. The
            tar shards and their DALI indexes are always written, unless it is "files": then the images of a
            plain folder stay where they are, and only an index is made.
        overwrite: replace a data set that is there, once the new one is complete.
        allow_incomplete: take a data set of the paper as it is, and record in the manifest what is missing; take
            however few fonts there are for glyphs.
        md5: compare the MD5 of even a very large archive (ImageNet), which reads it whole.
        progress: show how far it is, on stderr.

    Raises:
        ValueError: an option or the source cannot be used, the destination is in the way, too much was
            rejected (then the list is beside the destination as ``OUT.rejected.csv``), a worker died, or the
            disk is full. Nothing is left at the destination that was not there before.
    """
    started = time.monotonic()
    src = None if src is None else Path(src)
    out = Path("data") / name if out is None else Path(out)
    _check_options(short_side, quality, workers, max_rejected, max_pixels, shard_bytes)
    wanted = _parse_formats(formats)
    beton, in_place = "beton" in wanted, "files" in wanted
    if beton:
        import_ffcv()  # said now, if it is missing, not after hours of work
    reader = open_reader(name, src, labels, Checks(allow_incomplete, md5, progress))
    _check_fits(reader, name, out, wanted, short_side)
    short_side = 0 if in_place else reader.default_short_side if short_side is None else short_side
    workers = workers if workers is not None else 1 if reader.in_process else default_workers()
    max_rejected = reader.max_rejected if max_rejected is None else max_rejected
    options = StorageOptions(short_side, quality, reader.lossless, max_pixels, in_place)
    with_labels = labels != "none" and reader.class_names is not None
    rejected: collections.Counter[str] = collections.Counter()
    try:
        with DatasetWriter(
            out, name=name, overwrite=overwrite, shard_bytes=shard_bytes, beton=beton, in_place=in_place
        ) as writer:
            _fill(writer, reader, options, workers, with_labels, max_rejected, rejected, progress)
            with show_progress(f"{name}, beton", lambda: writer.num_images, progress and beton, "images") as advance:
                manifest = writer.finish(
                    class_names=reader.class_names if with_labels else None,
                    short_side=short_side,
                    quality=quality,
                    source=_about(name, reader, writer, rejected) | _root(reader, in_place),
                    advance=advance,
                )
    except OSError as error:
        raise ValueError(f"{out}: writing failed ({error.strerror or error}); nothing was kept") from error
    return ConversionReport(
        path=writer.out,
        manifest=manifest,
        rejected=dict(rejected.most_common()),
        skipped=_skipped(reader, writer),
        notes=reader.notes,
        source_bytes=writer.totals.source_bytes,
        stored_bytes=writer.totals.stored_bytes,
        num_encoded=writer.totals.num_encoded,
        psnr=writer.totals.psnr,
        num_cropped=writer.totals.num_cropped,
        num_unlabelled=writer.num_unlabelled,
        empty_classes=tuple(
            name for label, name in enumerate(manifest.class_names or ()) if label not in writer.labels_used
        ),
        num_copies=writer.totals.num_copies,
        num_dark=writer.totals.num_dark,
        seconds=time.monotonic() - started,
    )


def _fill(
    writer: DatasetWriter,
    reader: Reader,
    options: StorageOptions,
    workers: int,
    with_labels: bool,
    max_rejected: int | float,
    rejected: collections.Counter[str],
    progress: bool,
) -> None:
    results = contextlib.closing(store_items(reader, options, workers))
    with results as pairs, show_progress(writer.name, reader.total, progress) as advance:
        for item, result in pairs:
            if reader.mixed and result == NOT_AN_IMAGE:
                writer.pass_over(item.source, result)
            elif isinstance(result, Rejected):
                writer.reject(item.source, result)
                rejected[result.reason] += 1
                if isinstance(max_rejected, int) and writer.num_rejected > max_rejected:
                    break  # a limit in files is known to be broken at once, a share only at the end
            else:
                label = UNLABELLED if item.label is None else item.label
                writer.add(result, item.source, label if with_labels else None, item.split)
            advance(writer.num_images + writer.num_rejected + writer.num_passed_over)
    seen = writer.num_images + writer.num_rejected
    limit = max_rejected if isinstance(max_rejected, int) else max_rejected * seen
    if writer.num_rejected <= limit and writer.num_images > 0:
        return
    if seen == 0:
        others = f", only {writer.num_passed_over} other file(s)" if writer.num_passed_over else ""
        raise ValueError(f"{writer.name}: the source holds no image{others}")
    what = "no image could be read" if writer.num_images == 0 else "too many files were rejected"
    so_far = ", as far as it came" if isinstance(max_rejected, int) else ""
    remedy = "mend or remove them, or allow more with --max-rejected"
    if rejected[NEEDS_CONVERSION]:
        remedy = "leave --formats files out, which takes only images that need no conversion; or " + remedy
    raise ValueError(
        f"{writer.name}: {what}: {writer.num_rejected} of {seen} files were rejected where {limit:g} may be "
        f"({_table(rejected)}); they are listed in {writer.keep_rejected()}{so_far}: {remedy}"
    )


def _skipped(reader: Reader, writer: DatasetWriter) -> dict[str, int]:
    others = {NOT_AN_IMAGE.reason: writer.num_passed_over} if writer.num_passed_over else {}
    return {**reader.skipped, **others}


def _about(name: str, reader: Reader, writer: DatasetWriter, rejected: Mapping[str, int]) -> dict[str, Any]:
    about, totals = dict(reader.about), writer.totals
    if "complete" in about and rejected:  # a data set of the paper, of which not every image could be read
        about["complete"] = False
        about["deviations"] = [*about["deviations"], f"{writer.num_rejected} images rejected"]
    return {
        "name": name,
        **about,
        "counts": {
            "images": writer.num_images,
            **({"unlabelled": writer.num_unlabelled} if writer.num_unlabelled else {}),
            "cropped": totals.num_cropped,
            "rejected": dict(sorted(rejected.items())),
            "skipped": dict(sorted(_skipped(reader, writer).items())),
        },
        "encoding": {
            "source_bytes": totals.source_bytes,
            "stored_bytes": totals.stored_bytes,
            "encoded": totals.num_encoded,
            "psnr_db": None if totals.psnr is None else round(totals.psnr, 2),
        },
        # Encoders differ between versions: "the same bytes" holds for one version of Pillow.
        "pillow": PIL.__version__,
    }


def _check_options(
    short_side: int | None,
    quality: int,
    workers: int | None,
    max_rejected: int | float | None,
    max_pixels: int,
    shard_bytes: int,
) -> None:
    if short_side is not None and not 0 <= short_side <= MAX_SHORT_SIDE:
        raise ValueError(f"short_side is {short_side}, but must be 0 (no limit) or at most {MAX_SHORT_SIDE} pixels")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}, but must be within 1..100")
    if workers is not None and workers < 0:
        raise ValueError(f"workers is {workers}, but must be 0 or more")
    if max_rejected is not None and (max_rejected < 0 or (isinstance(max_rejected, float) and not max_rejected <= 1)):
        raise ValueError(f"max_rejected is {max_rejected}, but must be a count of files or a share within 0.0..1.0")
    if max_pixels < 1 or shard_bytes < 1:
        raise ValueError("max_pixels and shard_bytes must be at least 1")


def _parse_formats(formats: str | Sequence[str]) -> set[str]:
    names = [name.strip() for name in (formats.split(",") if isinstance(formats, str) else formats)]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        what = repr(unknown[0]) if unknown else "nothing"
        raise ValueError(f"formats names {what}, but can be {', '.join(FORMATS)} or tar,beton")
    return set(names)


def _check_fits(reader: Reader, name: str, out: Path, wanted: set[str], short_side: int | None) -> None:
    """Raise `ValueError` if the options do not fit the source."""
    if reader.root is not None:
        _check_apart(reader.root, out)
    if reader.lossless and short_side:
        raise ValueError(f"{name} is small and stored pixel by pixel; leave --short-side out")
    if "files" not in wanted:
        return
    if wanted != {"files"}:
        raise ValueError("formats: files leaves the images where they are, so it goes with no other format")
    if reader.root is None or not reader.root.is_dir() or reader.lossless:
        raise ValueError("formats: files is for a folder of images; this source has to be converted")
    if short_side:
        raise ValueError("formats: files leaves the images as they are; leave --short-side out")


def _root(reader: Reader, in_place: bool) -> dict[str, str]:
    return {"root": escape_name(os.path.abspath(str(reader.root)))} if in_place else {}


def _check_apart(src: Path, out: Path) -> None:
    inner, outer = Path(os.path.realpath(out)), Path(os.path.realpath(src))
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise ValueError(
            f"{escape_name(str(out))} and {escape_name(str(src))} lie within each other; "
            "put the data set outside its source"
        )


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _table(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{reason}: {count}" for reason, count in ordered)
