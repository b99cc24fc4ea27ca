"""The shard sample, schema version 1: what stands in `<key>.json` and `<key>.gaze.npz`, and how both are checked.

    <key>.jpg | <key>.png   8-bit grey, shortest side = the manifest's image_size
    <key>.json              `Meta` below
    <key>.gaze.npz          only with gaze: arrays "0", "1", ... (one a reading, in the order of Meta.readings),
                            float32 (F,6) with the columns x, y, start, end, sigma_x, sigma_y
    <key>.maps.npz          only where a reading has heat maps and no fixations: arrays named by reading number,
                            uint8 (S+1,H,W): the whole report's map, then one a sentence of the reading, grey levels
                            over the stored image (all zero: no map). Such a reading has (0,6) in gaze.npz, and its
                            sentences start and end at 0: a heat map has no clock.

Builder, checker and reader all go through this module, so the format is written down once.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from cogaze.observations import OBSERVATIONS, VIEWS

SCHEMA_VERSION = 1
SPLITS = ("train", "validate", "test")
IMAGE_FORMATS = ("jpg", "png")
GAZE_MEMBER = "gaze.npz"
MAPS_MEMBER = "maps.npz"
FIXATION_COLUMNS = ("x", "y", "start", "end", "sigma_x", "sigma_y")

# No honest member comes near these; a damaged or hostile index must not make a reader allocate gigabytes.
MAX_MEMBER_BYTES: dict[str, int] = {
    "jpg": 64 << 20,
    "png": 256 << 20,
    "json": 16 << 20,
    GAZE_MEMBER: 64 << 20,
    MAPS_MEMBER: 256 << 20,  # a reading of 20 sentences has 7 MB at 518 px
}


class ShardError(ValueError):
    """A shard folder that cannot be used; the message names the file, what is wrong with it and what to do."""


# ------------------------------------------------------------------------------------------------ <key>.json
Name = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
Text = Annotated[str, StringConstraints(pattern=r"\S")] | None  # absent is null, never blank
Seconds = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Report(_Part):
    findings: Text
    impression: Text


class Context(_Part):
    indication: Text
    history: Text


class Original(_Part):
    """The file the image was made from; width and height as displayed (after EXIF orientation), px."""

    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    path: Name
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        if PurePosixPath(path).is_absolute():
            raise ValueError("must be relative to the root of the source")
        return path


class SpokenSentence(_Part):
    text: Name
    start: Seconds
    end: Seconds

    @model_validator(mode="after")
    def _forward(self) -> SpokenSentence:
        if self.end < self.start:
            raise ValueError("ends before it starts")
        return self


class GazeReading(_Part):
    id: Name
    reader: str
    sentences: list[SpokenSentence]


class Meta(_Part):
    """One image. `labels`: 1 positive, 0 negative, -1 uncertain, null not mentioned; an absent name is unknown."""

    image_id: Name
    study_id: Name
    patient_id: Name
    split: Literal["train", "validate", "test"]
    view: str
    report: Report
    context: Context
    labels: dict[str, Literal[1, 0, -1] | None]
    label_source: Text
    original: Original
    readings: list[GazeReading]
    source: Name

    @field_validator("view")
    @classmethod
    def _known_view(cls, view: str) -> str:
        if view not in VIEWS:
            raise ValueError(f"should be one of {', '.join(VIEWS)}")
        return view

    @field_validator("labels", mode="before")  # before, because pydantic takes true for 1
    @classmethod
    def _known_labels(cls, labels: Any) -> Any:
        if isinstance(labels, dict):
            if any(name not in OBSERVATIONS for name in labels):
                raise ValueError("has a name that is not one of the 14 CheXbert observations")
            if any(isinstance(value, bool) for value in labels.values()):
                raise ValueError("has a true or false where 1, 0, -1 or null belongs")
        return labels


def validate_meta(meta: Any) -> list[str]:
    """What is wrong with a sample's parsed JSON, one "place: fault" each; empty = valid.

    The faults never quote the sample's values: those may be report text.
    """
    try:
        Meta.model_validate(meta)
    except ValidationError as error:
        return [
            f"{'.'.join(str(part) for part in fault['loc']) or 'sample'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_context=False, include_url=False)
        ]
    return []


def parse_json(data: bytes | str) -> Any:
    """`json.loads` of UTF-8 without the NaN and Infinity that JSON does not have. Raises ValueError."""
    try:
        return _DECODER.decode(data if isinstance(data, str) else data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def canonical_json(value: Any) -> bytes:
    """One byte string for equal values: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode(
        "utf-8", "backslashreplace"
    )


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """sha256 (hex) of what the manifest says of the data: it covers every byte of the shards through their sha256.

    What it tells of the making (options, what was set aside, counts of the source) may change with another version of
    cogaze that makes the same shards, and a run on them goes on.
    """
    data = {name: manifest.get(name) for name in ("schema_version", "image_size", "image_format", "ids", "shards")}
    return hashlib.sha256(canonical_json(data)).hexdigest()


# ------------------------------------------------------------------------------------------------ <key>.*.npz
def pack_gaze(fixations: Sequence[np.ndarray]) -> bytes:
    """The npz member of an image's readings, each float (F,6), stored uncompressed; same input, same bytes."""
    stream = io.BytesIO()
    arrays = {str(i): np.ascontiguousarray(rows, dtype="<f4") for i, rows in enumerate(fixations)}
    np.savez(stream, **arrays)  # type: ignore[arg-type]  # the stub takes the keywords for allow_pickle
    return stream.getvalue()


def unpack_gaze(data: bytes) -> dict[int, np.ndarray]:
    """Reading number -> fixations float32 (F,6), from the npz member. Raises ShardError on anything else."""
    wanted = f"float32 (F,{len(FIXATION_COLUMNS)})"
    return _unpack(
        data, GAZE_MEMBER, np.dtype("<f4"), lambda shape: len(shape) == 2 and shape[1] == len(FIXATION_COLUMNS), wanted
    )


def pack_maps(maps: Mapping[int, np.ndarray]) -> bytes:
    """The npz member of the readings that have heat maps, each uint8 (S+1,H,W); compressed, for most of it is black."""
    stream = io.BytesIO()
    arrays = {str(number): np.ascontiguousarray(rows, dtype="u1") for number, rows in sorted(maps.items())}
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def unpack_maps(data: bytes) -> dict[int, np.ndarray]:
    """Reading number -> heat maps uint8 (S+1,H,W), from the npz member. Raises ShardError on anything else."""
    return _unpack(
        data, MAPS_MEMBER, np.dtype("u1"), lambda shape: len(shape) == 3 and 0 not in shape, "uint8 (S+1,H,W)"
    )


def _unpack(
    data: bytes, member: str, dtype: np.dtype, fits: Callable[[tuple[int, ...]], bool], wanted: str
) -> dict[int, np.ndarray]:
    """The arrays of one npz by number. The zip directory and each array header are checked before memory is taken."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAX_MEMBER_BYTES[member]:
                raise ShardError(f"{member}: unpacks to more than is allowed")
            arrays: dict[int, np.ndarray] = {}
            for entry in entries:
                with archive.open(entry) as file:
                    body = file.read(entry.file_size)  # never more than the directory says, whatever is packed there
                arrays[int(entry.filename.removesuffix(".npy"))] = _unpack_array(body, member, dtype, fits, wanted)
            return arrays
    except ShardError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ShardError(f"{member}: not a readable npz ({error})") from None


def _unpack_array(
    data: bytes, member: str, dtype: np.dtype, fits: Callable[[tuple[int, ...]], bool], wanted: str
) -> np.ndarray:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ShardError(f"{member}: array format {version} is not 1.0")
    shape, fortran, stored = np.lib.format.read_array_header_1_0(stream)
    if stored != dtype or fortran or not fits(shape):
        raise ShardError(f"{member}: an array is {stored} {shape}, not {wanted}")
    body = data[stream.tell() :]
    if len(body) != math.prod(shape) * dtype.itemsize:
        raise ShardError(f"{member}: an array's size does not fit its header")
    return np.frombuffer(body, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="))
