"""What a mapping file may say: which column of a hospital's export means what (docs/table.md).

An expression is a column name, or a text with column names in braces: `{patient}-{visit}`. Beside the columns there are
names with a dot: `file.name`, `file.stem`, `file.path` of the image file, `path.GROUP` of `path_regex`, and
`dicom.FIELD` (a field of data_prep.dicom.Header). A filter may follow a bar: `{file|stem}` (no folder, no extension),
`{file|name}` (no folder), `{file|bare}` (no extension), `{id|8}` (filled up to 8 digits with leading zeros).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from cogaze.observations import OBSERVATIONS, VIEWS
from data_prep.tables import BLANK

NAME = re.compile(r"\{([^{}|]+)(?:\|(\w+))?\}")
FILTERS = {
    "stem": lambda text: PurePosixPath(text.replace("\\", "/")).stem,
    "name": lambda text: PurePosixPath(text.replace("\\", "/")).name,
    "bare": lambda text: PurePosixPath(text.replace("\\", "/")).with_suffix("").as_posix() if text else "",
}
FILE_NAMES = ("file.name", "file.stem", "file.path")
# The fields of data_prep.dicom.Header, written down since pydicom takes half a second to import.
DICOM_NAMES = tuple(
    f"dicom.{name}"
    for name in ("image_id", "study_id", "series_id", "accession", "patient_id", "study_date", "modality", "body_part",
                 "view", "laterality", "rows", "columns", "frames", "photometric", "bits_stored")
)  # fmt: skip
Observation = Annotated[str, Field(description="one of observations.OBSERVATIONS")]
LabelValue = Literal[1, 0, -1, "unknown"] | None


Separator = Annotated[str, Field(pattern=r'^[^\r\n"]$')]  # one character, and one that can part cells


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Image(_Part):
    """Where the files are: `path`, expressions relative to the root (the first that is a file counts), or `glob`."""

    path: tuple[str, ...] = ()
    glob: tuple[str, ...] = ()  # best copies first
    name: str = ""  # with glob and a table: the expression that gives the file's name
    by: Literal["name", "stem"] = "name"  # stem: extensions are not compared

    @field_validator("path", "glob", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("glob")
    @classmethod
    def _below_the_root(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if pattern.startswith("/") or ".." in PurePosixPath(pattern).parts:
                raise ValueError(f"{pattern!r} leads out of the root")
        return patterns

    @model_validator(mode="after")
    def _one_way(self) -> Image:
        if bool(self.path) == bool(self.glob):
            raise ValueError("give either path or glob")
        return self


class Ids(_Part):
    """`study` defaults to the image, each a study of its own; `patient` must be said, since splits go by patients."""

    image: str = "{file.stem}"
    study: str = ""
    patient: str


class Split(_Part):
    """A column with words, or lists of image names, or shares by a hash of the patient."""

    column: str = ""
    words: dict[str, Literal["train", "validate", "test"]] = {}
    lists: dict[Literal["train", "validate", "test"], str] = {}  # split -> a file with one image name a line
    name: str = "{file.name}"  # what stands in the lists
    shares: dict[Literal["train", "validate", "test"], Annotated[float, Field(ge=0, le=1)]] = {}
    validate_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of train's patients, where the source has no validate
    seed: int = 0

    @model_validator(mode="after")
    def _one_way(self) -> Split:
        if sum(map(bool, (self.column, self.lists, self.shares))) != 1:
            raise ValueError("give exactly one of column, lists and shares")
        if self.shares and abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ValueError("the shares must sum to 1")
        if self.shares and self.validate_share:
            raise ValueError("validate_share goes with column or lists; with shares, validate has its own")
        return self


class View(_Part):
    """Words of an expression, compared without case; a word that is not listed counts where it is a view itself."""

    column: str
    words: dict[str, str] = {}

    @field_validator("words")
    @classmethod
    def _known(cls, words: dict[str, str]) -> dict[str, str]:
        for view in words.values():
            if view not in VIEWS:
                raise ValueError(f"{view!r} is not a view; views are {', '.join(VIEWS)}")
        return {" ".join(word.lower().split()): view for word, view in words.items()}


class Text(_Part):
    """Columns of the sections (several are joined), or of a whole report to be cut into sections, or both."""

    findings: tuple[str, ...] = ()
    impression: tuple[str, ...] = ()
    indication: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    required: bool = True  # set images aside that have neither findings nor impression

    @field_validator("findings", "impression", "indication", "history", "report", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def _word(text: str) -> str:
    return " ".join(text.lower().split())


class Labels(_Part):
    """A column an observation with `values`, or one `column` that lists words with `names`."""

    source: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "table"
    columns: dict[Observation, str] = {}
    values: dict[str, LabelValue] = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "": None}
    column: str = ""
    separator: str = "|"
    names: dict[str, tuple[Observation, ...]] = {}  # word of the list -> what it says is present; [] says nothing
    open: dict[str, tuple[Observation, ...]] = {}  # word -> what it leaves open, unknown unless another word names it
    void: tuple[str, ...] = ()  # words beside which the list says nothing at all
    others: Literal["refuse", "unknown"] = "refuse"  # words in none of these: set the row aside, or all is left open
    undecided: tuple[Observation, ...] = ()  # unknown, not negative, unless the list names them or No Finding

    @field_validator("names", "open", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any, info: ValidationInfo) -> Any:
        """Words without case and with single blanks; one observation or several, or none, or (open) `all`."""
        if not isinstance(value, Mapping):
            return value
        found: dict[Any, Any] = {}
        for key, targets in value.items():
            if targets == "all" and info.field_name == "open":
                targets = OBSERVATIONS
            elif targets is None or isinstance(targets, str):
                targets = [targets] if targets else []
            word = _word(key) if isinstance(key, str) else key
            if found.setdefault(word, targets) != targets:
                raise ValueError(f"{str(key)!r} stands there twice, with different observations")
        return found

    @field_validator("void")
    @classmethod
    def _plain(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_word, words))

    @model_validator(mode="after")
    def _sound(self) -> Labels:
        if bool(self.columns) == bool(self.column):
            raise ValueError("give either columns or column")
        if self.column and not self.names:
            raise ValueError("column needs names: which word means which observation")
        if self.columns and (self.names or self.open or self.void or self.undecided):
            raise ValueError("names, open, void and undecided go with column, values with columns")
        listed = (name for words in (self.names, self.open) for targets in words.values() for name in targets)
        for name in (*self.columns, *self.undecided, *listed):
            if name not in OBSERVATIONS:
                raise ValueError(f"{name!r} is not an observation{near(name, OBSERVATIONS)}")
        return self

    @cached_property
    def named(self) -> tuple[str, ...]:
        """The observations that words of the list stand for."""
        return tuple(dict.fromkeys(name for targets in self.names.values() for name in targets))


class Filter(_Part):
    """Rows to keep or to drop by the words of an expression, without case; "" is blank."""

    column: str
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_way(self) -> Filter:
        if bool(self.keep) == bool(self.drop):
            raise ValueError("give either keep or drop")
        return self


class Size(_Part):
    """Columns with the pictures' size in px, to be compared with the files."""

    width: str
    height: str


def _encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError:
        raise ValueError(f"{name!r} is no encoding") from None
    return name


class Join(_Part):
    """Columns of a second table, by one key: `key: {column here: column there}`, or one name for both."""

    table: str
    key: dict[str, str]  # expressions: {"{MRN|8}": MRN}
    columns: tuple[str, ...] = ()  # what is taken from this table; needed where another has a column of the same name
    several: Literal["refuse", "first", "last", "join"] = "refuse"  # different rows of one key
    format: Literal["csv", "tsv", "jsonl", "parquet"] | None = None
    separator: Separator | None = None
    encoding: str = ""  # default: that of the main table
    optional: bool = False  # the file may be missing: its columns are blank then

    @field_validator("encoding")
    @classmethod
    def _exists(cls, value: str) -> str:
        return value and _encoding(value)

    @field_validator("key", mode="before")
    @classmethod
    def _same_name(cls, value: Any) -> Any:
        return {value: value} if isinstance(value, str) else value

    @field_validator("key")
    @classmethod
    def _one_key(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) != 1:
            raise ValueError("takes one column")
        return value

    @property
    def keys(self) -> tuple[str, str]:
        """The expressions of the key in the main table and in this one."""
        return next(iter(self.key.items()))


class TableMapping(_Part):
    """The whole file."""

    source: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    about: str = ""  # free text for people
    table: str = ""  # relative to the root; without one, the rows are the files that image.glob finds
    format: Literal["csv", "tsv", "jsonl", "parquet"] | None = None  # default: by the file's name
    separator: Separator | None = None
    encoding: str = "utf-8-sig"
    blank: tuple[str, ...] = tuple(sorted(BLANK))  # cells that say nothing, without case
    join: tuple[Join, ...] = ()
    filters: tuple[Filter, ...] = ()
    image: Image
    path_regex: str = ""  # searched in file.path; its named groups are path.GROUP
    ids: Ids
    split: Split
    view: View | None = None
    text: Text = Text(required=False)
    labels: Labels | None = None
    size: Size | None = None

    @field_validator("view", mode="before")
    @classmethod
    def _just_a_column(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @field_validator("path_regex")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return value

    @field_validator("encoding")
    @classmethod
    def _exists(cls, value: str) -> str:
        return _encoding(value)

    @model_validator(mode="after")
    def _sound(self) -> TableMapping:
        if not self.table and not self.image.glob:
            raise ValueError("without a table, image needs a glob")
        if self.table and self.image.glob and not self.image.name:
            raise ValueError("image.glob beside a table needs image.name: the expression that gives the file's name")
        for join in self.join:
            for _, through in names_of(join.keys[1]):
                _known_filter("join.key", through)
        for key, name in self.column_names():
            if not self.table:
                raise ValueError(f"{key} names the column {name!r}, but there is no table")
        return self

    def expressions(self) -> Iterator[tuple[str, str]]:
        """(key, expression) of all expressions."""
        for join in self.join:
            yield "join.key", join.keys[0]
        for i, row in enumerate(self.filters):
            yield f"filters.{i}.column", row.column
        for i, expression in enumerate(self.image.path):
            yield f"image.path.{i}", expression
        if self.table and self.image.name:
            yield "image.name", self.image.name
        for key in ("image", "study", "patient"):
            if value := getattr(self.ids, key):
                yield f"ids.{key}", value
        if self.split.column:
            yield "split.column", self.split.column
        if self.split.lists:
            yield "split.name", self.split.name
        if self.view:
            yield "view.column", self.view.column
        for key in ("findings", "impression", "indication", "history", "report"):
            for expression in getattr(self.text, key):
                yield f"text.{key}", expression
        if self.size:
            yield from (("size.width", self.size.width), ("size.height", self.size.height))
        if self.labels:
            if self.labels.column:
                yield "labels.column", self.labels.column
            for name, expression in self.labels.columns.items():
                yield f"labels.columns.{name}", expression

    def column_names(self) -> Iterator[tuple[str, str]]:
        """(key, column) of all columns of tables that the expressions name. Raises ValueError for bad expressions."""
        groups = [f"path.{name}" for name in re.compile(self.path_regex).groupindex]
        derived = [*FILE_NAMES, *groups, *DICOM_NAMES]
        for key, expression in self.expressions():
            for name, through in names_of(expression):
                _known_filter(key, through)
                if name.startswith(("file.", "path.", "dicom.")):
                    if name not in derived:
                        raise ValueError(f"{key}: no name {name!r}{near(name, derived)}")
                    if key.startswith(("image.", "join.")):
                        raise ValueError(f"{key}: {name!r} is known only once the file is found")
                else:
                    yield key, name


def _known_filter(key: str, through: str) -> None:
    if through and through not in FILTERS and not through.isdigit():
        raise ValueError(f"{key}: no filter {through!r}; filters are {', '.join(FILTERS)} and a number of digits")


def names_of(expression: str) -> list[tuple[str, str]]:
    """(name, filter or "") of an expression: those in braces, or all of it."""
    if "{" not in expression:
        return [(expression.strip(), "")]
    return [(name.strip(), through or "") for name, through in NAME.findall(expression)]


def near(name: str, known: Iterable[str], prefix: str = "") -> str:
    """ "; did you mean X?", else the list of what is known."""
    known = list(known)
    lower = {word.lower(): word for word in known}
    near = difflib.get_close_matches(name.lower(), list(lower), 1, cutoff=0.5)
    return f"; did you mean {prefix}{lower[near[0]]}?" if near else f"; known: {', '.join(known)}"
