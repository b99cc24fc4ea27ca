"""The mapping file of `--source table`: YAML, read with the safe loader into the models of mapping.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from data_prep.records import SourceError
from data_prep.table.mapping import TableMapping, near

SHIPPED = Path(__file__).parent / "mappings"


class MappingError(SourceError):
    """A mapping file that cannot be used; the message names the file, the key and the remedy."""


class _RepeatedKey(Exception):
    """Two values under one key, of which YAML would take the last in silence."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}  # 1 and "1" are one key, as words of a table are text
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    both = f"lines {lines[key.value]} and {line}"
                    raise _RepeatedKey(f"the key {key.value!r} stands in {both}; only one can count")
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def mapping_path(where: Path | str) -> Path:
    """The file at `where`, or the shipped one of that name. Raises MappingError where there is neither."""
    path, shipped = Path(where), SHIPPED / f"{where}.yaml"
    if path.is_file() or shipped.is_file():
        return path if path.is_file() else shipped
    known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
    raise MappingError(f"{where}: no such mapping file; shipped ones are {known}")


def load_mapping(where: Path | str) -> TableMapping:
    """The mapping file at `where`, or the shipped one of that name. Raises MappingError."""
    path = mapping_path(where)
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise MappingError(f"{path}: cannot be read ({error})") from None
    except _RepeatedKey as error:
        raise MappingError(f"{path}: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise MappingError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(tree, dict):
        raise MappingError(f"{path}: the top level must be a mapping of keys, not {type(tree).__name__}")
    faults = list(_unknown_keys(tree, TableMapping, ""))
    if not faults:
        try:
            return TableMapping.model_validate(tree)
        except ValidationError as error:
            faults = [_plain(fault) for fault in error.errors()]
    raise MappingError("\n".join(f"{path}: {fault}" for fault in faults))


def _plain(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "mapping"
    if isinstance(fault.get("input"), bool):
        return f"{place}: put the word in quotes (yes, no, on and off are true and false in YAML)"
    return f"{place}: {str(fault['msg']).removeprefix('Value error, ')}"


def _unknown_keys(tree: Mapping[Any, Any], model: type[BaseModel], prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        if key not in model.model_fields:
            yield f"unknown key {prefix}{key}{near(str(key), list(model.model_fields), prefix)}"
            continue
        annotation = model.model_fields[key].annotation
        inner = next((c for c in _classes(annotation) if issubclass(c, BaseModel)), None)
        for part in value if isinstance(value, list) else [value]:
            if inner is not None and isinstance(part, dict):
                yield from _unknown_keys(part, inner, f"{prefix}{key}.")


def _classes(annotation: Any) -> list[type]:
    found = [annotation] if isinstance(annotation, type) and not get_args(annotation) else []
    for part in get_args(annotation):
        found += _classes(part)
    return found
