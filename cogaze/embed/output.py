"""The files of `cogaze embed`: chunks in a work folder beside the output, put together into one parquet or npz file.

    FILE.partial/  job.json            what is embedded, with what: only the same may go on
                   chunk-000003.npz    512 rows of the source (64 with patch features), written aside and renamed
    FILE                               .parquet or .npz
    FILE.quarantine.jsonl              the rows that could not be used, with the reason

Columns, n rows in the order of the source: `id` (and `key` of a shard sample), `view` (as the model took it),
`has_context`, `image_features` float32 (n,D), the sigmoid of each image logit as `probability.NAME` (npz:
`probabilities` (n,14) and `labels`), with patch features `patch_features` float16 (n,P,D) (parquet: lists of P·D), with
texts `text_features` (n,D) (parquet: null, npz: zeros where `has_text` is false).
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".parquet", ".npz")
ABOUT = "about"  # array of the npz, key "cogaze" of the parquet's metadata: JSON with the job and the summary
SET_ASIDE = "set_aside"  # in a chunk: JSON lines of the rows that are not in it

Arrays = dict[str, NDArray[Any]]


class EmbedError(ValueError):
    """Embedding that cannot be done or gone on with; the message says what to do."""


def chunk_path(work: Path, number: int) -> Path:
    return work / f"chunk-{number:06d}.npz"


def write_chunk(path: Path, arrays: Arrays, set_aside: Sequence[dict[str, Any]], rank: int) -> None:
    """Complete or absent, whatever happens."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in set_aside)
    aside = path.with_name(f".{path.name}.{rank}-{os.getpid()}.partial")
    with aside.open("wb") as file:
        np.savez(file, **arrays, **{SET_ASIDE: np.frombuffer(lines.encode(), np.uint8)})  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def finished(work: Path, chunks: int) -> list[int]:
    """Numbers of the chunks that are there and whole."""
    return [number for number in range(chunks) if zipfile.is_zipfile(chunk_path(work, number))]


def read_about(path: Path) -> dict[str, Any] | None:
    """What an output file says of itself; None where it is none of ours."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file[ABOUT]))
        else:
            import pyarrow.parquet as pq

            about = json.loads((pq.read_schema(path).metadata or {})[b"cogaze"])
    except Exception:  # whatever a foreign or damaged file makes its reader raise
        return None
    return about if isinstance(about, dict) else None


# ------------------------------------------------------------------------------------------------ putting together
def merge(work: Path, chunks: int, out: Path, job: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Write `out` and its quarantine from all chunks, each in the work folder and renamed; returns the summary.

    Memory holds one chunk at a time. Raises EmbedError where a chunk cannot be read (it is then removed), and where no
    row could be embedded.
    """
    paths = [chunk_path(work, number) for number in range(chunks)]
    summary = _survey(paths, work / "quarantine.jsonl", quarantine_path(out))
    about = json.dumps({"job": job, "summary": summary})
    aside = work / f"merged{out.suffix}"
    if not summary["rows"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary["set_aside"].items())
        raise EmbedError(f"none of {job['rows']:,} rows could be embedded: {reasons}; see {quarantine_path(out)}")
    write = _write_npz if out.suffix == ".npz" else _write_parquet
    write(aside, paths, about, labels)
    os.replace(aside, out)
    return summary


def quarantine_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.quarantine.jsonl")


def _survey(paths: Sequence[Path], aside: Path, quarantined: Path) -> dict[str, Any]:
    """Counts over all chunks; the rows set aside are written to `quarantined`, which is not there without any."""
    reasons: Counter[str] = Counter()
    views: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    width = 0
    with aside.open("wb") as quarantine:
        for path in paths:
            chunk = _load(path, ("view", "has_context", "has_text", SET_ASIDE, "image_features"))
            lines = chunk[SET_ASIDE].tobytes()
            quarantine.write(lines)
            reasons.update(json.loads(line)["reason"] for line in lines.splitlines())
            views.update(chunk["view"].tolist())
            counts["rows"] += len(chunk["view"])
            counts["with_context"] += int(chunk["has_context"].sum())
            counts["with_text"] += int(chunk["has_text"].sum()) if "has_text" in chunk else 0
            width = chunk["image_features"].shape[1]
    if reasons:
        os.replace(aside, quarantined)
    else:
        quarantined.unlink(missing_ok=True)
    return {
        "rows": counts["rows"],
        "width": width,
        "with_context": counts["with_context"],
        "with_text": counts["with_text"],
        "views": dict(sorted(views.items())),
        "set_aside": dict(reasons.most_common()),
    }


def _load(path: Path, names: Sequence[str] | None = None) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files if name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        path.unlink(missing_ok=True)
        raise EmbedError(f"{path} was damaged ({error}) and is removed; start the same command again") from None


def _write_parquet(aside: Path, paths: Sequence[Path], about: str, labels: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def vectors(rows: NDArray[Any]) -> Any:
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), math.prod(rows.shape[1:]))

    def some_vectors(rows: NDArray[Any], present: NDArray[Any]) -> Any:
        """Null where not present. Lists of no fixed size: pyarrow cannot read back nulls among such of a fixed one."""
        ends = np.concatenate([[0], np.cumsum(present * rows.shape[1])]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), pa.array(rows[present].ravel()), mask=pa.array(~present))

    writer = None
    try:
        for path in paths:
            chunk = _load(path)
            plain = [name for name in ("id", "key", "view", "has_context") if name in chunk]
            columns: dict[str, Any] = {name: pa.array(chunk[name]) for name in plain}
            columns["image_features"] = vectors(chunk["image_features"])
            columns |= {f"probability.{n}": pa.array(p) for n, p in zip(labels, chunk["probabilities"].T, strict=True)}
            if "patch_features" in chunk:
                columns["patch_features"] = vectors(chunk["patch_features"])
            if "text_features" in chunk:
                columns["text_features"] = some_vectors(chunk["text_features"], chunk["has_text"])
            table = pa.table(columns)
            if writer is None:
                writer = pq.ParquetWriter(aside, table.schema.with_metadata({"cogaze": about}))
            if len(table):
                writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _write_npz(aside: Path, paths: Sequence[Path], about: str, labels: Sequence[str]) -> None:
    """One array after the other, each from all chunks: an array may be larger than memory."""
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
        for name in _load(paths[0]).keys() - {SET_ASIDE}:
            shapes, dtypes = zip(*(_header(path, name) for path in paths), strict=True)
            dtype = np.result_type(*dtypes)  # ids are as wide as the widest of them
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (sum(shape[0] for shape in shapes), *shapes[0][1:]),
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for path in paths:
                    file.write(np.ascontiguousarray(_load(path, (name,))[name], dtype).tobytes())
        for name, value in {"labels": np.array(labels), ABOUT: np.array(about)}.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, value, allow_pickle=False)


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array in a chunk, without reading it."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype
