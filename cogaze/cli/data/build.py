"""`cogaze data build`: from a raw data set to shards."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cogaze.cli.data import origin, summary
from cogaze.cli.errors import UsageError
from cogaze.cli.options import CORES, Jobs, here
from cogaze.cli.progress import progress_bar


def command(
    source: Annotated[
        str, typer.Option(help="mimic-cxr, mimic-eye, cogaze-annotations, iu-xray or table", show_default=False)
    ],
    root: Annotated[Path, typer.Option(help="where the raw data set lies", parser=here, show_default=False)],
    out: Annotated[Path, typer.Option(help="new or empty folder for the shards", parser=here, show_default=False)],
    reports: Annotated[
        Path | None, typer.Option(help="mimic-cxr: folder of the reports", show_default="found beside the images")
    ] = None,
    reflacx: Annotated[
        Path | None, typer.Option(help="mimic-cxr: folder of REFLACX", show_default="found beside the images")
    ] = None,
    egd: Annotated[
        Path | None, typer.Option(help="mimic-cxr: folder of EGD", show_default="found beside the images")
    ] = None,
    labels: Annotated[
        Literal["chexpert", "negbio", "chexbert", "none"] | None,
        typer.Option(help="mimic-cxr, mimic-eye (the first two): whose labels", show_default="chexpert"),
    ] = None,
    label_table: Annotated[
        Path | None, typer.Option(help="mimic-cxr: the table for --labels", show_default="that of the collection")
    ] = None,
    radiologist: Annotated[
        bool | None,
        typer.Option(
            "--radiologist/--no-radiologist",
            help="mimic-cxr: a radiologist's labels where there are any",
            show_default="yes",
        ),
    ] = None,
    pixels: Annotated[
        Literal["jpg", "dicom"] | None, typer.Option(help="mimic-cxr: which of the two copies", show_default="jpg")
    ] = None,
    without_text: Annotated[
        bool | None,
        typer.Option("--without-text", help="mimic-cxr: keep images without a usable report", show_default="set aside"),
    ] = None,
    fill_labels: Annotated[
        Literal["rules", "chexbert"] | None,
        typer.Option(help="give labels, from their reports, to images whose source has none"),
    ] = None,
    chexbert: Annotated[
        Path | None, typer.Option(help="the weight file chexbert.pth for --fill-labels chexbert")
    ] = None,
    chexbert_tokenizer: Annotated[
        str | None, typer.Option(help="folder or hub id of its tokenizer", show_default="bert-base-uncased")
    ] = None,
    viewing_distance: Annotated[
        float | None,
        typer.Option(help="mimic-cxr, mimic-eye: inches from EGD's reader to the screen", show_default="28"),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="folder of the images", show_default="found below the root")
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="cogaze-annotations: the JSON", show_default="the *annotation*.json in the root"),
    ] = None,
    gaze: Annotated[
        Path | None, typer.Option(help="cogaze-annotations: folder of the heat maps", show_default="gaze in the root")
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option(
            help="table: the YAML file that says which column is what, or a shipped one's name (docs/table.md)"
        ),
    ] = None,
    image_size: Annotated[int, typer.Option(help="shortest side of the stored images, px")] = 518,
    image_format: Annotated[Literal["jpg", "png"], typer.Option("--format", help="png is lossless")] = "jpg",
    quality: Annotated[int | None, typer.Option(help="JPEG quality", show_default="95")] = None,
    dicom_grey: Annotated[
        Literal["window", "minmax-equalized"],
        typer.Option(help="how DICOM pixels become grey: as displayed, or as the JPEGs of MIMIC-CXR-JPG were made"),
    ] = "window",
    images_per_shard: Annotated[int, typer.Option(help="planned images a tar")] = 2048,
    jobs: Jobs = CORES,
    part: Annotated[
        str | None, typer.Option(help="i/n: make every n-th shard from the i-th; `cogaze data merge` puts all together")
    ] = None,
    hash_ids: Annotated[bool, typer.Option("--hash-ids", help="salted hashes in place of all ids and paths")] = False,
    salt_file: Annotated[
        Path | None, typer.Option(help="the secret for --hash-ids", show_default="the variable COGAZE_SALT")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a finished build")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="exit 1 if anything was set aside, or image files changed since a build")
    ] = False,
) -> None:
    """Turn a raw data set into shards; what cannot be used is set aside in quarantine.jsonl with its reason.

    Stopped at any moment, the same command goes on. Where the source has grown, it leaves the shards that are there
    as they are and adds new ones.

    Examples:

      cogaze data build --source mimic-cxr --root raw/mimic-cxr-jpg --out shards/mimic

      cogaze data build --source mimic-cxr --root raw/phantom --out shards/one --jobs 2

      cogaze data build --source iu-xray --root raw/iu --out shards/iu --image-size 256

      cogaze data build --source table --mapping export.yaml --root raw/export --out shards/export

      cogaze data build --source mimic-cxr --root raw/mimic --out shards/mimic --part 3/8
    """
    from data_prep.build import Changed
    from data_prep.build import build as build_shards
    from data_prep.records import Quarantine
    from data_prep.shards.pseudonyms import read_salt
    from data_prep.sources import SOURCES

    source = source.replace("_", "-")  # a record's source is written mimic_cxr
    if source not in SOURCES:
        raise UsageError(f"unknown --source {source!r}; known: {', '.join(sorted(SOURCES))}")
    given: dict[str, Any] = {"reports": reports, "reflacx": reflacx, "egd": egd, "labels": labels, "images": images}
    given |= {"viewing_distance": viewing_distance, "label_table": label_table, "radiologist": radiologist}
    given |= {"pixels": pixels, "without_text": without_text, "annotations": annotations, "gaze": gaze}
    given |= {"mapping": mapping}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    foreign = options.keys() - inspect.signature(SOURCES[source]).parameters.keys()
    if foreign:
        raise UsageError(
            f"--source {source} takes no {', '.join(f'--{name}' for name in sorted(foreign)).replace('_', '-')}"
        )
    _need_folder(root, "--root")
    slices = _slices(part)
    if strict and slices[1] > 1:
        raise UsageError("--strict belongs to `cogaze data merge` when a build is made in parts")
    for option, value in (("--chexbert", chexbert), ("--chexbert-tokenizer", chexbert_tokenizer)):
        if value is not None and fill_labels != "chexbert":
            raise UsageError(f"{option} is for --fill-labels chexbert")
    if quality is not None and image_format != "jpg":
        raise UsageError("--quality is for --format jpg")
    if salt_file is not None and not hash_ids:
        raise UsageError("--salt-file is for --hash-ids")
    salt = read_salt(salt_file) if hash_ids else None
    found = origin.folders(source, root, options)
    origin.refuse_idle_options(source, root, found, options)
    quarantine = Quarantine(root, *found.values())
    parts = origin.parts(source, found, options)
    records = SOURCES[source](root, quarantine, **options)
    filling: dict[str, Any] = {"fill_labels": fill_labels}
    if fill_labels is not None:
        from data_prep.labels.fill import fill_labels as fill

        records = fill(records, fill_labels, weights=chexbert, tokenizer=chexbert_tokenizer, quarantine=quarantine)
    if fill_labels == "chexbert":
        from cogaze.chexbert import TOKENIZER

        filling["chexbert"] = chexbert
        if not hash_ids:
            filling["chexbert_tokenizer"] = Path(chexbert_tokenizer or TOKENIZER).name
    changed = Changed()
    with progress_bar("building", "images") as progress:
        done = build_shards(
            records,
            out,
            quarantine=quarantine,
            image_size=image_size,
            image_format=image_format,
            quality=95 if quality is None else quality,
            dicom_grey=dicom_grey,
            images_per_shard=images_per_shard,
            jobs=jobs,
            overwrite=overwrite,
            phantom=origin.is_phantom(source, found),
            parts=parts,
            made_with=origin.made_with(SOURCES[source], root, options, filling, hash_ids),
            salt=salt,
            part=slices,
            changed=changed,
            progress=progress,
        )
    if slices[1] > 1:
        typer.echo(
            f"{out}: part {part} done, {done['images']:,} images in {done['shards']:,} shards ({done['kept']:,} images "
            f"were there); when all parts are done: cogaze data merge {out}"
        )
        summary.say_changed(changed)
    else:
        summary.say(out, done, strict, changed)


def _slices(part: str | None) -> tuple[int, int]:
    """`3/8` as (3, 8)."""
    if part is None:
        return 1, 1
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", part)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--part {part}: write i/n with i from 1 to n, e.g. 3/8")
    return int(found[1]), int(found[2])


def _need_folder(path: Path, option: str) -> None:
    if not path.is_dir():
        raise UsageError(f"{option} {path}: {'is not a folder' if path.exists() else 'no such folder'}")
    if next(path.iterdir(), None) is None:
        raise UsageError(f"{option} {path}: the folder is empty")
