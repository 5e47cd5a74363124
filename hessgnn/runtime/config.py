"""Configurations: pydantic models read from YAML; unknown keys are errors, and an error is one line.

Each part of the package declares its own settings beside its code as a subclass of :class:`Settings`; this module
only knows how to read, override and write them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from hessgnn.errors import ConfigError, DataError, did_you_mean
from hessgnn.runtime.files import write_text


class Settings(BaseModel):
    """A group of settings: immutable, unknown keys are errors, defaults are checked, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class GrownSettings(Settings):
    """Settings that gained keys. Files leave these out at their defaults, so that earlier versions read them."""

    ADDED: ClassVar[tuple[str, ...]] = ()
    """The keys that were added."""

    @model_serializer(mode="wrap")
    def _without_new_defaults(
        self, serialize: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        if info.mode == "json":
            for key in self.ADDED:
                if getattr(self, key) == type(self).model_fields[key].get_default(call_default_factory=True):
                    content.pop(key, None)
        return content


S = TypeVar("S", bound=Settings)

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed of random numbers, in the range that all libraries take."""

_DEEPEST = 100  # levels of a file: no settings have more, and far more would end in Python's own limit


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Only plain YAML is accepted (``yaml.safe_load``): no tag can run code. Raises :class:`ConfigError` when the file
    is missing, is not YAML, is not a mapping, or has sections within sections without end.
    """
    try:
        content = _load_yaml(Path(path).read_text(encoding="utf-8"), where=path)
    except FileNotFoundError:
        raise ConfigError("no such file", where=path, hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({error})", where=path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark is not None else path
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ConfigError(f"not valid YAML ({problem})", where=where, hint="check indentation and colons") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError("holds no mapping of keys to values", where=path, hint="write `key: value` lines")
    return content


def override(content: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply dotted ``section.key=value`` assignments to a nested mapping, and return a new one; values are YAML.

    Raises :class:`ConfigError` when an assignment has no ``=`` or goes through a key that holds a plain value.
    """
    result = merge(content)
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key:
            raise ConfigError("not an assignment", where=assignment, hint="write it as section.key=value")
        try:
            value = _load_yaml(text, where=assignment)
        except yaml.YAMLError as error:
            raise ConfigError("the value is not valid YAML", where=assignment) from error
        set_dotted(result, key, value)
    return result


def _load_yaml(text: str, *, where: object) -> Any:
    deep = ConfigError("nested too deeply", where=where, hint="no alias may lie within what it stands for")
    try:
        content = yaml.safe_load(text)
    except RecursionError:
        raise deep from None
    level = [content]
    for _ in range(_DEEPEST):
        inside = [value for one in level if isinstance(one, dict | list) for value in _values(one)]
        level = list({id(value): value for value in inside}.values())  # what aliases repeat is looked at once
        if not level:
            return content
    raise deep


def _values(content: dict[Any, Any] | list[Any]) -> list[Any]:
    return list(content.values()) if isinstance(content, dict) else content


def merge(*contents: Mapping[str, Any]) -> dict[str, Any]:
    """Join nested mappings into a new one; where two hold a value or a list under the same key, the later one wins."""
    result: dict[str, Any] = {}
    for content in contents:
        for key, value in content.items():
            before = result.get(key)
            if isinstance(value, Mapping):
                result[key] = merge(before if isinstance(before, Mapping) else {}, value)
            elif isinstance(value, list):
                result[key] = [merge(one) if isinstance(one, Mapping) else one for one in value]
            else:
                result[key] = value
    return result


def set_dotted(content: dict[str, Any], key: str, value: Any) -> None:
    """Set ``content["a"]["b"]`` for the key ``a.b`` in place, making the mappings on the way.

    In a list, ``a.1`` is its second entry.
    """
    *parents, last = key.split(".")
    node: Any = content
    for name in parents:
        node = node[_place(node, name, key)] if isinstance(node, list) else node.setdefault(name, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"{name!r} holds a plain value, not a section", where=key, hint="check the dotted key")
    node[_place(node, last, key) if isinstance(node, list) else last] = value


def _place(entries: list[Any], name: str, key: str) -> int:
    if name.isdecimal() and int(name) < len(entries):
        return int(name)
    hint = f"name the entry by its number, 0 to {len(entries) - 1}"
    raise ConfigError(f"the list has no entry {name!r}", where=key, hint=hint)


def get_dotted(content: Mapping[str, Any], key: str) -> Any:
    """Read ``content["a"]["b"]`` for the key ``a.b``; ``None`` where there is no such key."""
    node: Any = content
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def parse(model: type[S], content: Mapping[str, Any], *, where: object) -> S:
    """Check a mapping against a model.

    Raises :class:`ConfigError`: one line with ``where`` (usually a file), the key and a hint.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise explain(error, model, where=where) from error
    except ConfigError as error:  # of a part that is checked by itself, such as the potential's settings
        place = where if error.where is None else f"{where}, {error.where}"
        raise ConfigError(error.what, where=place, hint=error.hint) from error


def parse_named(models: Mapping[str, type[S]], content: Any, *, key: str, where: str, default: str | None = None) -> S:
    """Check a mapping against the model that its value under ``key`` names; settings that were checked already pass.

    Raises :class:`ConfigError` when there is no such name, or the mapping does not fit the model. ``where`` is the
    section, for the error.
    """
    if isinstance(content, Settings):
        return content  # type: ignore[return-value]
    if not isinstance(content, Mapping):
        raise ConfigError("is not a section of settings", where=where, hint=f"write `{key}: NAME` and its settings")
    name = content.get(key, default)
    if name not in models:
        what = "is missing" if name is None else f"no such {key}: {name!r}"
        raise ConfigError(what, where=f"{where}.{key}", hint=did_you_mean(str(name or ""), models))
    return parse(models[name], {**content, key: name}, where=where)


def load(model: type[S], path: Path, assignments: Sequence[str] = ()) -> S:
    """Read a YAML file, apply dotted overrides (see :func:`override`) and check it against a model."""
    return parse(model, override(read_yaml(path), assignments), where=path)


def dump(settings: Settings) -> str:
    """Write settings as YAML that :func:`load` reads back, with every key, defaults included."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def save(settings: Settings, path: Path) -> None:
    """Write settings to a YAML file, atomically."""
    write_text(path, dump(settings))


def differences(one: Settings, other: Settings) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values; ``None`` for a missing one. Lists and tuples are alike."""

    def flat(value: Any, key: str) -> dict[str, Any]:
        inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        found = {k: v for name, part in inside for k, v in flat(part, f"{key}.{name}" if key else str(name)).items()}
        return found or {key: value}

    first, second = (flat(settings.model_dump(mode="json"), "") for settings in (one, other))
    keys = dict.fromkeys([*first, *second])
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}


def read_json(model: type[S], path: Path, *, hint: str) -> S:
    """Read a JSON file that this package wrote, and check it against a model.

    Raises :class:`DataError` when the file is missing (with ``hint``), damaged, or has missing or unknown fields.
    """
    try:
        return model.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file", where=path, hint=hint) from None
    except ValidationError as error:
        raise DataError(str(explain(error, model, where=path))) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=path) from error


def explain(error: ValidationError, model: type[BaseModel], *, where: object) -> ConfigError:
    """Turn pydantic's report into one line that names the key and the hint.

    The first entry is reported, the number of others is counted. The key that was meant is suggested from the model.
    """
    entries = error.errors()

    # An unknown key explains more than the missing one it was meant to be; one that only the other member of a union
    # does not know explains nothing.
    def rank(entry: Any) -> int:
        if entry["type"] != "extra_forbidden":
            return 1
        *parents, last = _location(entry)
        return 2 if last in _keys_at(model, parents) else 0

    first = min(entries, key=rank)
    location = _location(first)
    key = ".".join(str(part) for part in location)
    others = f" (and {len(entries) - 1} more)" if len(entries) > 1 else ""
    place = f"{where}, key {key!r}" if key else where
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return ConfigError(f"unknown key{others}", where=place, hint=did_you_mean(str(location[-1]), known))
    if first["type"] == "missing":
        return ConfigError(f"is missing{others}", where=place, hint="add it")
    message = first["msg"].removeprefix("Value error, ")
    got = first["input"]
    shown = f", got {got!r}" if isinstance(got, str | int | float | bool) or got is None else ""
    return ConfigError(f"{message}{shown}{others}", where=place)


def _location(entry: Any) -> list[str | int]:
    """Path to what is wrong, without pydantic's remarks in brackets."""
    return [part for part in entry["loc"] if isinstance(part, int) or "[" not in str(part)]


def _keys_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Field names of the model that sits at a location inside ``model`` (all of a union's members)."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        deeper: list[type[BaseModel]] = []
        for candidate in models:
            if isinstance(part, int) or part not in candidate.model_fields:
                deeper.append(candidate)
                continue
            deeper += _models_in(candidate.model_fields[part].annotation)
        models = deeper
    return sorted({name for candidate in models for name in candidate.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
