"""Every client's way of writing a value is read as the same value; other spellings are rejected."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.config.values import Value, ValueFormat, infer_format, parse_value

INTEGER, NUMBER, BOOLEAN, STRING = (
    ValueFormat("integer"),
    ValueFormat("number"),
    ValueFormat("boolean"),
    ValueFormat("string"),
)
INTEGERS = ValueFormat("list of integers")
STRINGS = ValueFormat("list of strings")
CHOICE = ValueFormat("one of", ("none", "basic"))
CHOICE_OR_NUMBERS = infer_format(Literal["none", "balanced"] | dict[str, float])
AUTO_OR_BOOLEAN = ValueFormat("one of", ("auto", "true", "false"))


@pytest.mark.parametrize(
    ("text", "value_format", "value"),
    [
        ("10", INTEGER, 10),
        ("10.0", INTEGER, 10),
        ("1e3", INTEGER, 1000),
        (' "10" ', INTEGER, 10),
        ("-1", INTEGER, -1),
        ("0.001", NUMBER, 0.001),
        ("1e-3", NUMBER, 0.001),
        ('"1e-3"', NUMBER, 0.001),
        ("true", BOOLEAN, True),
        ("True", BOOLEAN, True),
        ("1", BOOLEAN, True),
        ('"False"', BOOLEAN, False),
        ("0", BOOLEAN, False),
        ("Balanced", CHOICE_OR_NUMBERS, "balanced"),
        ('{"ash": 2, "1": "0.5"}', CHOICE_OR_NUMBERS, {"ash": 2.0, "1": 0.5}),
        ('"{\\"ash\\": 2}"', CHOICE_OR_NUMBERS, {"ash": 2.0}),
        ("{'ash': 2.0, 1: 3}", CHOICE_OR_NUMBERS, {"ash": 2.0, "1": 3.0}),
        ("abc", STRING, "abc"),
        ('"abc"', STRING, "abc"),
        ('"say \\"hi\\""', STRING, 'say "hi"'),
        ("[1, 2]", INTEGERS, (1, 2)),
        ("1,2", INTEGERS, (1, 2)),
        ('"10, 20"', INTEGERS, (10, 20)),
        ("[]", INTEGERS, ()),
        ("None", INTEGERS, ()),
        ('["10","20"]', INTEGERS, (10, 20)),
        ("['10', '20']", INTEGERS, (10, 20)),
        ("[10.0, 20.0]", INTEGERS, (10, 20)),
        ("(10, 20)", INTEGERS, (10, 20)),
        ("(10,)", INTEGERS, (10,)),
        ("ash, birch", STRINGS, ("ash", "birch")),
        ('["ash", "birch"]', STRINGS, ("ash", "birch")),
        ("['ash', 'birch']", STRINGS, ("ash", "birch")),
        ("['ash, oak', \"it's\"]", STRINGS, ("ash, oak", "it's")),
        ("('ash', 'birch')", STRINGS, ("ash", "birch")),
        ("'ash', 'birch'", STRINGS, ("ash", "birch")),
        ('"ash, oak", "birch"', STRINGS, ("ash, oak", "birch")),
        ('"[\\"ash\\", \\"birch\\"]"', STRINGS, ("ash", "birch")),
        ("[0, 1.5]", STRINGS, ("0", "1.5")),
        ("'resnet18'", STRING, "resnet18"),
        ("1.0", BOOLEAN, True),
        ("0.0", BOOLEAN, False),
        ("1.0", AUTO_OR_BOOLEAN, "true"),
        ("Basic", CHOICE, "basic"),
        ("None", CHOICE, "none"),
        ("two_words", ValueFormat("one of", ("two-words",)), "two-words"),
        ("two-words", ValueFormat("one of", ("two_words",)), "two_words"),
        ("Auto", AUTO_OR_BOOLEAN, "auto"),
        ("True", AUTO_OR_BOOLEAN, "true"),
        ("0", AUTO_OR_BOOLEAN, "false"),
    ],
)
def test_equivalent_spellings_parse_to_same_value(text: str, value_format: ValueFormat, value: Value) -> None:
    parsed = parse_value(text, value_format)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["None", "null", "", '""', " none "])
def test_none_is_accepted_for_optional_values(text: str) -> None:
    assert parse_value(text, ValueFormat("integer", optional=True)) is None


@pytest.mark.parametrize(
    ("text", "value_format"),
    [
        ("None", INTEGER),
        ("ten", INTEGER),
        ("1.5", INTEGER),
        ("9" * 5000, INTEGER),
        ("1e400", NUMBER),
        ("nan", NUMBER),
        ("inf", NUMBER),
        ("0,1", NUMBER),
        ("maybe", BOOLEAN),
        ("1,two", INTEGERS),
        ("[1, [2]]", INTEGERS),
        ("[true]", INTEGERS),
        ("{1: 2}", INTEGERS),
        ("[1, 2", INTEGERS),
        ('{"ash": 0, "birch": 1}', STRINGS),
        ("{'ash': 0, 'birch': 1}", STRINGS),
        ("{'ash', 'birch'}", STRINGS),
        ('["ash", null]', STRINGS),
        ("['ash', None]", STRINGS),
        ("['ash' 'birch']", STRINGS),
        ("[__import__('os')]", STRINGS),
        ("[" * 1000 + "]" * 1000, STRINGS),
        ("strong", CHOICE),
        ("1", CHOICE),
    ],
)
def test_invalid_text_is_rejected(text: str, value_format: ValueFormat) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_value(text, value_format)


@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: name.strip() == name), min_size=1)
)
def test_string_list_round_trips_in_all_client_encodings(names: list[str]) -> None:
    assert parse_value(json.dumps(names), STRINGS) == tuple(names)
    assert parse_value(json.dumps(json.dumps(names)), STRINGS) == tuple(names)
    if not any(quote in name for name in names for quote in "'\""):
        assert parse_value(str(names), STRINGS) == tuple(names)


@given(st.integers())
def test_integers_round_trip_in_both_encodings(number: int) -> None:
    assert parse_value(str(number), INTEGER) == parse_value(json.dumps(str(number)), INTEGER) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_round_trip_in_both_encodings(number: float) -> None:
    assert parse_value(str(number), NUMBER) == parse_value(json.dumps(number), NUMBER) == number


@given(st.text())
def test_any_text_parses_or_raises_value_error(text: str) -> None:
    for value_format in (INTEGER, NUMBER, BOOLEAN, STRING, INTEGERS, STRINGS, CHOICE, AUTO_OR_BOOLEAN):
        try:
            parse_value(text, value_format)
        except ValueError:
            continue


def test_format_is_inferred_from_type() -> None:
    assert infer_format(int | None) == ValueFormat("integer", optional=True)
    with pytest.raises(TypeError, match="bytes"):
        infer_format(bytes)
