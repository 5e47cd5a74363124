"""Reading, overriding, checking and writing of configurations, on settings of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import PositiveInt, model_validator

from hessgnn.errors import ConfigError
from hessgnn.runtime.config import Settings, dump, get_dotted, load, merge, override, parse, read_yaml, save, set_dotted


class Inner(Settings):
    number: PositiveInt = 3
    kind: Literal["one", "two"] = "one"


class Other(Settings):
    ratio: float = 0.5


class Outer(Settings):
    name: str
    inner: Inner = Inner()
    either: Inner | Other | None = None
    table: dict[int, float] = {}  # noqa: RUF012
    words: tuple[str, ...] = ("a", "b")

    @model_validator(mode="after")
    def _not_bad(self) -> Outer:
        if self.name == "bad":
            raise ValueError("this name is bad")
        if self.name == "nested":
            parse(Inner, {"numbr": 1}, where="the nested part")
        return self


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "here, key 'name': is missing. Hint: add it"),
        ({"nam": "x"}, "here, key 'nam': unknown key (and 1 more). Hint: did you mean 'name'?"),
        ({"name": "x", "inner": {"numbr": 1}}, "here, key 'inner.numbr': unknown key. Hint: did you mean 'number'?"),
        ({"name": "x", "inner": {"zzz": 1}}, "key 'inner.zzz': unknown key. Hint: choose one of kind, number"),
        ({"name": "x", "inner": {"number": 0}}, "key 'inner.number': Input should be greater than 0, got 0"),
        ({"name": "x", "inner": {"kind": "three"}}, "Input should be 'one' or 'two', got 'three'"),
        ({"name": "x", "inner": {"number": 0, "kind": 3}}, "(and 1 more)"),
        ({"name": "x", "either": {"ratio": float("nan")}}, "finite"),
        ({"name": "x", "table": {"H": 1.0}}, "table"),
        ({"name": "x", "words": "abc"}, "words"),
        ({"name": "bad"}, "here: this name is bad"),
        ({"name": "nested"}, "here, the nested part, key 'numbr': unknown key. Hint: did you mean 'number'?"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, content, where="here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("here")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(Outer, {"name": "x"}, where="here").name = "y"  # type: ignore[misc]


def test_what_is_dumped_is_read_back(tmp_path: Path) -> None:
    settings = Outer(name="Å – ü", inner=Inner(number=7), either=Other(ratio=1e-4), table={1: -13.6}, words=())
    path = tmp_path / "deep" / "settings.yaml"
    save(settings, path)
    assert load(Outer, path) == settings
    assert "Å – ü" in path.read_text(encoding="utf-8")
    assert "kind: one" in dump(settings)  # defaults are written, so that they may change later


def test_an_empty_file_holds_no_settings(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "x.yaml") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "line 1: not valid YAML"),
        (b"a: 1\nb: {\n", "not valid YAML"),
        (b"a: 1\n  b: 2\n", "line 2: not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"- a\n", "holds no mapping"),
        (b"a: \xff\n", "cannot be read"),
        (b"a: \x00\n", "not valid YAML"),
        (b"a: &a {x: *a}\n", "nested too deeply"),
        (b"a: &a [*a]\n", "nested too deeply"),
        (b"{a: " * 3000 + b"1" + b"}" * 3000, "nested too deeply"),
        (b"{a: " * 200 + b"1" + b"}" * 200, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)


def test_overrides_are_read_as_yaml_and_leave_the_content_alone() -> None:
    content = {"a": {"b": 1, "c": 2}}
    changed = override(content, ["a.b=[1, 2]", "a.d.e=1.0e-3", "f=null", "g=x=y", "h=", "i='3'", "j=off"])
    assert changed == {
        "a": {"b": [1, 2], "c": 2, "d": {"e": 1e-3}},
        "f": None,
        "g": "x=y",
        "h": None,
        "i": "3",
        "j": False,
    }
    assert content == {"a": {"b": 1, "c": 2}}


def test_an_override_reaches_into_a_list() -> None:
    content = {"a": [{"b": 1}, {"b": 2}]}
    assert override(content, ["a.1.b=3", "a.0.c=4"]) == {"a": [{"b": 1, "c": 4}, {"b": 3}]}
    assert content == {"a": [{"b": 1}, {"b": 2}]}
    for assignment in ("a.2.b=3", "a.b=3", "a.-1.b=3"):
        with pytest.raises(ConfigError, match=r"the list has no entry .* by its number, 0 to 1"):
            override(content, [assignment])


def test_a_power_of_ten_is_a_number_without_a_point_too() -> None:
    """YAML 1.1 takes 1e-3 for a string, which pydantic reads as a number all the same."""
    assert parse(Other, override({}, ["ratio=1e-3"]), where="here").ratio == 1e-3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("a.b", "not an assignment"),
        ("=3", "not an assignment"),
        ("a.b=[1", "not valid YAML"),
        ("a.b=&a [*a]", "nested too deeply"),
        ("a.b=" + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a.b.c=1", "'b' holds a plain value"),
    ],
)
def test_a_wrong_override(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        override({"a": {"b": 1}}, [assignment])
    assert "\n" not in str(caught.value)


def test_merging_joins_sections_and_the_later_value_wins() -> None:
    first, second = {"a": {"b": 1, "c": {"d": 2}}, "e": [1]}, {"a": {"c": {"d": 3, "f": 4}}, "e": [2]}
    assert merge(first, second) == {"a": {"b": 1, "c": {"d": 3, "f": 4}}, "e": [2]}
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}
    assert merge({"a": 2}, {"a": {"b": 1}}) == {"a": {"b": 1}}
    assert merge() == {}
    merged = merge(first)
    merged["a"]["c"]["d"] = 9
    assert first["a"]["c"]["d"] == 2


def test_dotted_keys() -> None:
    content: dict[str, Any] = {}
    set_dotted(content, "a.b.c", 1)
    set_dotted(content, "a.d", None)
    assert content == {"a": {"b": {"c": 1}, "d": None}}
    assert get_dotted(content, "a.b.c") == 1
    assert get_dotted(content, "a.b") == {"c": 1}
    assert get_dotted(content, "a.x.y") is None
    assert get_dotted(content, "a.b.c.d") is None
