"""Recipes as text: values are read as in YAML 1.2, and hostile files are refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rltr.errors import RltrError
from rltr.recipe import Recipe, load_recipe, recipe_text
from rltr.recipe.text import DEEPEST, LONGEST, read_yaml
from tests.test_recipe import KEYS

CORE: dict[str, Any] = {
    # YAML 1.1 reads these as truth values, octal, sexagesimal, with underscores, or not as numbers at all.
    **{word: word for word in ("off", "on", "yes", "no", "y", "n", "Off", "NO", "none", "None", "1:30", "190:20:30")},
    **{word: word for word in ("1_000", "0b11", "0x", "0o8", "1e", "e3", "+", "--", ".", "=", "<<", "1.2.3", "inf")},
    **{"010": 10, "0o10": 8, "0x1F": 31, "+7": 7, "-0": 0, "1e-3": 1e-3, "1E3": 1000.0, "1e+2": 100.0, ".5": 0.5},
    **{"5.": 5.0, "-2.5e-1": -0.25, ".inf": math.inf, "-.INF": -math.inf, "1e999": math.inf},
    **{"~": None, "null": None, "NULL": None, "": None, "true": True, "FALSE": False, "'off'": "off", '"12"': "12"},
}


@pytest.mark.parametrize(("text", "value"), CORE.items(), ids=map(repr, CORE))
def test_plain_values_are_read_as_in_yaml_1_2(text: str, value: Any) -> None:
    read = read_yaml(f"key: {text}")["key"]
    assert type(read) is type(value) and read == value


def test_nan_is_read() -> None:
    assert math.isnan(read_yaml(".nan")) and math.isnan(read_yaml(".NaN"))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
HOSTILE: dict[str, tuple[str, str]] = {
    "a billion laughs": (BOMB + "model: {source: *j}\n", "anchors and aliases"),
    "itself": ("model: &m {source: *m}\n", "anchors and aliases"),
    "an anchor alone": ("model: {source: &here embedded}\n", "anchors and aliases"),
    "an alias to nothing": ("model: {source: *nothing}\n", "anchors and aliases"),
    "lists in lists": ("model: " + "[" * 20_000 + "]" * 20_000, f"more than {DEEPEST} levels"),
    "groups in groups": ("{a: " * 5_000 + "1" + "}" * 5_000, f"more than {DEEPEST} levels"),
    "dashes": ("- " * 5_000 + "1", f"more than {DEEPEST} levels"),
    "an impossible date": ("out: 2026-02-30\n", "is a date to YAML.*quote it"),
    "a date": ("out: 2026-02-28\n", "is a date to YAML.*quote it"),
    "a time": ("out: 2026-02-28T10:61:00Z\n", "is a date to YAML.*quote it"),
    "a number without end": ("learner: {rollouts: " + "9" * 6_000 + "}\n", "whole number of 6000 digits"),
    "a number without end, in hex": ("learner: {rollouts: 0x" + "f" * 6_000 + "}\n", "whole number of 6002 digits"),
    "a real number without end": ("learner: {learning_rate: " + "9" * 6_000 + ".0}\n", "finite"),
    "a key twice": ("learner: {seed: 1}\nlearner: {seed: 2}\n", "duplicate key 'learner'"),
    "a key twice, below": ("learner: {seed: 1, seed: 2}\n", "duplicate key 'seed'"),
    "a key that is no name": ("1: 2\n", "expected a name, not 1"),
    "a key that is a list": ("? [a]\n: b\n", "expected a name"),
    "a group as a key": ("? {a: 1}\n: b\n", "expected a name"),
    "merging groups": ("learner: {<<: {seed: 1}}\n", "unknown key 'learner.<<'"),
    "a tag": ("out: !!timestamp 2026-02-30\n", "tags"),
    "binary": ("out: !!binary AAAA\n", "tags"),
    "a set": ("out: !!set {a}\n", "tags"),
    "python": ("out: !!python/object/apply:os.system [ls]\n", "tags"),
    "python's name": ("out: !!python/name:os.system\n", "tags"),
    "two documents": ("learner: {seed: 1}\n---\nlearner: {seed: 2}\n", "another document"),
    "too much": ("# " + "x" * LONGEST + "\nlearner: {seed: 1}\n", "200,001 characters"),
    "a control character": ("out: \x07\n", "not valid YAML"),
    "a lone surrogate": ('out: "\\ud800"\n', "encoded as UTF-8"),
}


@pytest.mark.parametrize(("content", "said"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(RltrError, match=said) as refused:
        load_recipe(file)
    message = str(refused.value)
    assert "\n" not in message and len(message) < 1_000


@pytest.mark.parametrize(("content", "said"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_overrides_are_refused_in_one_line(content: str, said: str) -> None:
    with pytest.raises(RltrError) as refused:
        load_recipe(None, [f"model={content}"])
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1_000


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xef\xbb\xbflearner: {seed: 3}\r\npolicy:\r\n")
    assert load_recipe(file).learner.seed == 3


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.text_column=no", "no"),
        ("data.text_column=1:30", "1:30"),
        ("data.subset='2024'", "2024"),
        ('data.subset="2026-01-01"', "2026-01-01"),
        ("learner.rollouts=1e3", 1000),
        ("learner.batch=0x20", 32),
        ("learner.learning_rate=1e-3", 1e-3),
        ("data.labels=none", "none"),
    ],
)
def test_overrides_get_the_type_of_their_field(override: str, value: Any) -> None:
    group, _, name = override.partition("=")[0].partition(".")
    assert getattr(getattr(load_recipe(None, [override]), group), name) == value


@pytest.mark.parametrize("word", ["off", "no", "false", "False"])
def test_labels_that_are_switched_off_are_refused_with_the_choices(word: str) -> None:
    with pytest.raises(RltrError, match=r"data\.labels is .*: (must be 'read' or 'none'|must not be true or false)"):
        load_recipe(None, [f"data.labels={word}"])


def test_a_number_for_a_text_is_refused_with_the_right_spelling() -> None:
    with pytest.raises(RltrError, match=r"data\.subset is 2024: must be a valid string \(in quotes"):
        load_recipe(None, ["data.subset=2024"])


# Any value in any field

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, -(2**63), 10**12, 10**30, 10**5_000, -(10**5_000)),
    *(0.0, -0.0, 0.5, 1.5, -1e300, 1e300, 5e-324, math.nan, math.inf, -math.inf),
    *(
        "",
        " ",
        "x",
        "off",
        "1:30",
        "1e-3",
        "nan",
        "-inf",
        "9" * 6_000,
        "\0",
        "\ud800",
        "\udcff",
        "a\nb",
        "x" * 10_000,
        "{}",
    ),
    *(b"", b"x", [], [[]], {}, {"a": 1}, {1: 2}, {None: {}}, (), set(), object(), 1j, Path("x"), Path("\ud800")),
    *(
        [0],
        [-1],
        [1, 1],
        [2, 1],
        [math.nan],
        [math.inf, 1],
        [1e300, 1e308],
        [10**30],
        [10**5_000],
        ["x"],
        [None],
        [True],
    ),
    *([0.5, 0.25, 0.25], [math.nan, 0.5, 0.5], [0, 0, 1], [1e-320, 1], [1, 2, 3, 4], ["random"], [[1]], [{}]),
]


def accepted(recipe: Recipe) -> None:
    """Accepted values are finite, are not booleans, and can be written and read again."""
    text = recipe_text(recipe)
    text.encode("utf-8")
    again = load_recipe(read_yaml(text))
    assert again == recipe

    def look(value: object) -> None:
        assert not isinstance(value, bool | bytes)
        assert not isinstance(value, float) or math.isfinite(value)
        assert not isinstance(value, int) or abs(value) <= 10**12
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
            look(inner)

    look(recipe.model_dump())


@pytest.mark.parametrize("key", [*sorted(KEYS), *sorted({key.partition(".")[0] for key in KEYS if "." in key})])
def test_every_field_accepts_a_value_or_refuses_it_in_one_line(key: str) -> None:
    for value in ODD:
        try:
            recipe = load_recipe(values={key: value})
        except RltrError as error:
            assert "\n" not in str(error) and len(str(error)) < 1_500 and key.partition(".")[0] in str(error)
        else:
            accepted(recipe)


def tangled() -> Any:
    knot: list[Any] = []
    knot.append(knot)
    return knot


def test_deep_and_cyclic_values_are_refused() -> None:
    deep: Any = {}
    for _ in range(3_000):
        deep = {"a": deep}
    for value in (tangled(), deep, [[[[[[[[[[[[1]]]]]]]]]]]]):
        for given_as in ({"source": {"model": value}}, {"values": {"model.source": value}}):
            with pytest.raises(RltrError, match="levels of groups and lists"):
                load_recipe(**given_as)


WORDS = st.sampled_from(
    [
        *sorted({part for key in KEYS for part in key.split(".")}),
        *CORE,
        "{",
        "}",
        "[",
        "]",
        ",",
        ": ",
        ":",
        "- ",
        "\n",
        "  ",
    ]
    + [
        "&a",
        "*a",
        "!!int",
        "|",
        ">",
        '"',
        "'",
        "#",
        "%",
        "@",
        "`",
        "?",
        "---",
        "...",
        "2026-02-30",
        "\t",
        "\0",
        "é",
        "\u2028",
    ]
)


@settings(max_examples=60)
@given(st.lists(WORDS | st.text(max_size=4), max_size=25).map("".join))
def test_any_text_is_a_recipe_or_refused_in_one_line(text: str) -> None:
    try:
        content = read_yaml(text)
    except yaml.YAMLError:
        content = None
    try:
        accepted(load_recipe(content if isinstance(content, dict) else None))
        for override in (text, f"learner.seed={text}", f"data={text}"):
            accepted(load_recipe(None, [override]))
    except RltrError as error:
        assert "\n" not in str(error)
