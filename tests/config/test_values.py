"""Every client's way of writing a value is read as the same value; other spellings are rejected."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.config.values import Value, ValueFormat, infer_format, parse_value

WHOLE, NUMBER, SWITCH, TEXT = (
    ValueFormat("integer"),
    ValueFormat("number"),
    ValueFormat("boolean"),
    ValueFormat("string"),
)
LIST = ValueFormat("list of integers")
NAMES = ValueFormat("list of strings")
CHOICE = ValueFormat("one of", ("none", "basic"))
THREE_WAYS = ValueFormat("one of", ("auto", "true", "false"))


@pytest.mark.parametrize(
    ("text", "form", "value"),
    [
        ("10", WHOLE, 10),
        ("10.0", WHOLE, 10),
        ("1e3", WHOLE, 1000),
        (' "10" ', WHOLE, 10),
        ("-1", WHOLE, -1),
        ("0.001", NUMBER, 0.001),
        ("1e-3", NUMBER, 0.001),
        ('"1e-3"', NUMBER, 0.001),
        ("true", SWITCH, True),
        ("True", SWITCH, True),
        ("1", SWITCH, True),
        ('"False"', SWITCH, False),
        ("0", SWITCH, False),
        ("abc", TEXT, "abc"),
        ('"abc"', TEXT, "abc"),
        ('"say \\"hi\\""', TEXT, 'say "hi"'),
        ("[1, 2]", LIST, (1, 2)),
        ("1,2", LIST, (1, 2)),
        ('"10, 20"', LIST, (10, 20)),
        ("[]", LIST, ()),
        ("None", LIST, ()),
        ('["10","20"]', LIST, (10, 20)),
        ("['10', '20']", LIST, (10, 20)),
        ("[10.0, 20.0]", LIST, (10, 20)),
        ("(10, 20)", LIST, (10, 20)),
        ("(10,)", LIST, (10,)),
        ("ash, birch", NAMES, ("ash", "birch")),
        ('["ash", "birch"]', NAMES, ("ash", "birch")),
        ("['ash', 'birch']", NAMES, ("ash", "birch")),
        ("['ash, oak', \"it's\"]", NAMES, ("ash, oak", "it's")),
        ("('ash', 'birch')", NAMES, ("ash", "birch")),
        ("'ash', 'birch'", NAMES, ("ash", "birch")),
        ('"ash, oak", "birch"', NAMES, ("ash, oak", "birch")),
        ('"[\\"ash\\", \\"birch\\"]"', NAMES, ("ash", "birch")),
        ("[0, 1.5]", NAMES, ("0", "1.5")),
        ("'resnet18'", TEXT, "resnet18"),
        ("1.0", SWITCH, True),
        ("0.0", SWITCH, False),
        ("1.0", THREE_WAYS, "true"),
        ("Basic", CHOICE, "basic"),
        ("None", CHOICE, "none"),
        ("two_words", ValueFormat("one of", ("two-words",)), "two-words"),
        ("two-words", ValueFormat("one of", ("two_words",)), "two_words"),
        ("Auto", THREE_WAYS, "auto"),
        ("True", THREE_WAYS, "true"),
        ("0", THREE_WAYS, "false"),
    ],
)
def test_equivalent_spellings_parse_to_same_value(text: str, form: ValueFormat, value: Value) -> None:
    read = parse_value(text, form)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["None", "null", "", '""', " none "])
def test_none_is_accepted_for_optional_values(text: str) -> None:
    assert parse_value(text, ValueFormat("integer", optional=True)) is None


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("None", WHOLE),
        ("ten", WHOLE),
        ("1.5", WHOLE),
        ("9" * 5000, WHOLE),
        ("1e400", NUMBER),
        ("nan", NUMBER),
        ("inf", NUMBER),
        ("0,1", NUMBER),
        ("maybe", SWITCH),
        ("1,two", LIST),
        ("[1, [2]]", LIST),
        ("[true]", LIST),
        ("{1: 2}", LIST),
        ("[1, 2", LIST),
        ('{"ash": 0, "birch": 1}', NAMES),
        ("{'ash': 0, 'birch': 1}", NAMES),
        ("{'ash', 'birch'}", NAMES),
        ('["ash", null]', NAMES),
        ("['ash', None]", NAMES),
        ("['ash' 'birch']", NAMES),
        ("[__import__('os')]", NAMES),
        ("[" * 1000 + "]" * 1000, NAMES),
        ("strong", CHOICE),
        ("1", CHOICE),
    ],
)
def test_invalid_text_is_rejected(text: str, form: ValueFormat) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_value(text, form)


@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: name.strip() == name), min_size=1)
)
def test_string_list_round_trips_in_all_client_encodings(names: list[str]) -> None:
    assert parse_value(json.dumps(names), NAMES) == tuple(names)
    assert parse_value(json.dumps(json.dumps(names)), NAMES) == tuple(names)
    if not any(quote in name for name in names for quote in "'\""):
        assert parse_value(str(names), NAMES) == tuple(names)


@given(st.integers())
def test_integers_round_trip_in_both_encodings(number: int) -> None:
    assert parse_value(str(number), WHOLE) == parse_value(json.dumps(str(number)), WHOLE) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_round_trip_in_both_encodings(number: float) -> None:
    assert parse_value(str(number), NUMBER) == parse_value(json.dumps(number), NUMBER) == number


@given(st.text())
def test_any_text_parses_or_raises_value_error(text: str) -> None:
    for form in (WHOLE, NUMBER, SWITCH, TEXT, LIST, NAMES, CHOICE, THREE_WAYS):
        try:
            parse_value(text, form)
        except ValueError:
            continue


def test_format_is_inferred_from_type() -> None:
    assert infer_format(int | None) == ValueFormat("integer", optional=True)
    with pytest.raises(TypeError, match="bytes"):
        infer_format(bytes)
