"""The image files of a table: paths put together from cells, or what globs find, by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.images import is_dicom
from data_prep.records import SourceError
from data_prep.table.expressions import Lookup, expand
from data_prep.table.mapping import TableMapping, names_of

if TYPE_CHECKING:
    from data_prep.dicom.header import Header

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")


class Aside(Exception):
    """A row that is set aside: Aside(reason, detail)."""


class Images:
    """The files below `root`. Raises SourceError where the globs find nothing."""

    def __init__(self, root: Path, plan: TableMapping) -> None:
        self.root, self.image = root, plan.image
        self.needs = {text: [name for name, _ in names_of(text)] for text in plan.image.path}
        self.found: dict[str, str] = {}  # name or stem (without a table: the path itself) -> path relative to the root
        self.copies: list[str] = []
        self.named: set[str] = set()
        self._header: tuple[str, Header] | None = None
        for pattern in plan.image.glob:
            for path in sorted(path for path in root.glob(pattern) if path.is_file()):
                relative = path.relative_to(root).as_posix()
                key = self._key(path.name) if plan.table else relative
                if self.found.setdefault(key, relative) != relative:
                    self.copies.append(relative)
        self.there = frozenset(self.found.values())
        if plan.image.glob and not self.found:
            raise SourceError(f"{root}: no file fits image.glob {', '.join(plan.image.glob)}")

    def rows(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Without a table: (path, {"": path}) of every file."""
        for relative in sorted(self.there):
            yield relative, {"": relative}

    def find(self, lookup: Lookup) -> str:
        """A row's image, relative to the root; of several paths the first that is there. Raises Aside."""
        if self.image.glob:
            name = expand(self.image.name, lookup).replace("\\", "/").rpartition("/")[2]
            if not name:
                raise Aside("row without an image", "")
            relative = self.found.get(self._key(name), name)
            self.named.add(relative)
            return relative
        filled = [text for text, names in self.needs.items() if all(map(lookup, names))]
        paths = [self._inside(expand(expression, lookup)) for expression in filled]
        if not paths:
            raise Aside("row without an image", "")
        return next((path for path in paths[:-1] if self.exists(path)), paths[-1])

    def exists(self, relative: str) -> bool:
        return relative in self.there if self.image.glob else os.path.isfile(os.path.join(self.root, relative))

    def unnamed(self) -> list[str]:
        """The files that no `find` has given."""
        return sorted(self.there - self.named - set(self.copies))

    def is_dicom(self, relative: str) -> bool:
        """By content; a file whose name is that of a picture is not opened."""
        if relative.lower().endswith(PICTURES):
            return False
        try:
            with open(self.root / relative, "rb") as file:
                return is_dicom(file.read(132))
        except OSError:  # for those who decode it to say
            return False

    def header(self, relative: str) -> Header:
        """The DICOM header of an image. Raises ImageError."""
        from data_prep.dicom.header import read_header  # here, since pydicom takes half a second to import

        if self._header is None or self._header[0] != relative:
            self._header = (relative, read_header(self.root / relative))
        return self._header[1]

    def _key(self, name: str) -> str:
        return Path(name).stem if self.image.by == "stem" else name

    def _inside(self, text: str) -> str:
        """A path from cells, relative to the root. Raises Aside for one that leads out of it."""
        path = text.strip().replace("\\", "/")
        if path.startswith("/"):
            path = os.path.relpath(path, self.root.absolute())
        path = os.path.normpath(path)
        if path.startswith("../") or path in ("..", ".") or "\0" in path:
            raise Aside("image path outside the root", "")
        return path
