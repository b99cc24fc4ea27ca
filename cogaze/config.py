"""Configuration: YAML files that extend one another, validated by the typed models of `cogaze.settings`.

    base.yaml  <-  extends:  <-  your.yaml  <-  section.key=value on the command line

Every key exists there, with its type, its default and what it does; an unknown key is an error that names the
nearest right one. `load` resolves the chain, `dump` writes the resolved configuration back as YAML.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .settings import AugmentConfig, Config, GazeConfig, LossConfig, OptimConfig, ScheduleConfig

__all__ = [
    "AugmentConfig",
    "Config",
    "ConfigError",
    "GazeConfig",
    "LossConfig",
    "OptimConfig",
    "ScheduleConfig",
    "dump",
    "load",
    "validate",
]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key, in which file, and what would be right."""


# ------------------------------------------------------------------------------------------------ reading and writing
def load(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file with its `extends` chain, apply `section.key=value` overrides, validate.

    Raises ConfigError: missing file, a circular chain, bad YAML, an unknown key (with the nearest right one), a value
    of the wrong type or out of range.
    """
    path = Path(path)
    tree = _read_chain(path, ())
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"override {text!r} is not of the form section.key=value")
        try:
            parsed = yaml.safe_load(value) if value.strip() else None
        except yaml.YAMLError as error:
            raise ConfigError(f"override {text!r}: the value is not YAML ({error})") from None
        tree = _merge(tree, _nest(key.strip().split("."), parsed))
    return validate(tree, str(path))


def validate(tree: dict[str, Any], origin: str) -> Config:
    """A typed Config of a plain mapping; `origin` names it in errors."""
    problems = list(_unknown_keys(tree, Config, ""))
    if problems:
        raise ConfigError("\n".join(f"{origin}: {p}" for p in problems))
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc']) or 'config'}: {_plain(e)}" for e in error.errors()]
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from None


def dump(config: Config) -> str:
    """The resolved configuration as YAML, readable by `load`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _plain(error: Any) -> str:
    shown = error.get("input")
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{message} (got {shown!r})" if isinstance(shown, (str, int, float, bool)) else message


def _read_chain(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    here = path.resolve()
    if here in seen:
        raise ConfigError(f"{path}: `extends` goes round in a circle: {' -> '.join(str(p) for p in (*seen, here))}")
    try:
        tree = yaml.safe_load(here.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the top level must be a mapping of sections, not {type(tree).__name__}")
    parents = tree.pop("extends", None) or []
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: `extends` takes a file name or a list of file names, not {parents!r}")
    merged: dict[str, Any] = {}
    for parent in parents:
        merged = _merge(merged, _read_chain(here.parent / parent, (*seen, here)))
    return _merge(merged, tree)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` wins; mappings merge key by key, everything else (lists too) is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    return {keys[0]: value if len(keys) == 1 else _nest(keys[1:], value)}


def _unknown_keys(tree: dict[str, Any], model: type[BaseModel], prefix: str) -> Iterable[str]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in model.model_fields:
            near = difflib.get_close_matches(str(key), list(model.model_fields), 1, cutoff=0.5)
            elsewhere = [p for p in _all_keys(Config, "") if p.split(".")[-1] == key]
            hint = f"did you mean {prefix}{near[0]}?" if near else ""
            hint = f"did you mean {elsewhere[0]}?" if elsewhere and not near else hint
            yield f"unknown key {name}; {hint or 'known: ' + ', '.join(model.model_fields)}"
            continue
        inner = model.model_fields[key].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if isinstance(value, dict):
                yield from _unknown_keys(value, inner, f"{name}.")
            else:
                yield f"{name} is a section with keys {', '.join(inner.model_fields)}, not a {type(value).__name__}"


def _all_keys(model: type[BaseModel], prefix: str) -> Iterable[str]:
    for key, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _all_keys(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
