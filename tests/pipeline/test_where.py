"""Conditions as text: what they choose, and what is refused."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.where import parse_where

ROWS = [
    {"n": 1, "x": 0.5, "caption": "A dog", "my score": 3},
    {"n": 2, "x": -1.5, "caption": "a cat, asleep", "my score": 1},
    {"n": 3, "x": 2.0, "caption": None, "my score": 2},
    {"n": 4, "x": 8.0, "caption": "dogs", "my score": 9},
]
TABLE = pa.Table.from_pylist(ROWS)


def chosen(text: str) -> list[int]:
    return TABLE.filter(parse_where(text))["n"].to_pylist()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("n >= 2", [2, 3, 4]),
        ("2 <= n < 4", [2, 3]),
        ("n != 2 and x > 0", [1, 3, 4]),
        ("n == 1 or n == 4", [1, 4]),
        ("not (n == 1 or n == 4)", [2, 3]),
        ("x == -1.5", [2]),
        ("x * 2 + 1 > n", [1, 3, 4]),
        ("x / n < 0.6", [1, 2]),
        ("n in (1, 3, 9)", [1, 3]),
        ("n not in [1, 3, 9]", [2, 4]),
        ("caption is None", [3]),
        ("caption is not None", [1, 2, 4]),
        ("caption == 'A dog'", [1]),
        ("contains(caption, 'dog')", [1, 4]),
        ("not contains(caption, 'dog')", [2]),
        ("starts_with(lower(caption), 'a')", [1, 2]),
        ("ends_with(caption, 's')", [4]),
        ("matches(caption, '^[Aa] (dog|cat)')", [1, 2]),
        ("length(caption) > 5", [2]),
        ("column('my score') > 2", [1, 4]),
        (" n == 1 ", [1]),
    ],
)
def test_what_is_chosen(text, wanted):
    assert chosen(text) == wanted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "invalid syntax"),
        ("n >", "invalid syntax"),
        ("n = 1", "invalid syntax"),
        ("1 < 2", "names no column"),
        ("'dog'", "names no column"),
        ("n and 1", "'1' is a value, and no condition"),
        ("n in caption", "after 'in' a list is wanted, not 'caption'"),
        ("n in (x, 1)", "'x' is no plain value"),
        ("n == None", "write 'is None'"),
        ("n is 1", "only None is understood"),
        ("open('/etc/passwd')", "open with 1 arguments is not understood"),
        ("contains(caption)", "contains with 1 arguments"),
        ("contains(caption, 1)", "contains with 2 arguments"),
        ("caption.upper() == 'X'", "'caption.upper()' is not understood"),
        ("[n for n in (1, 2)]", "is not understood"),
        ("lambda: n", "is not understood"),
        ("n ** 2 > 3", "'n ** 2' is not understood"),
        ("n == b'x'", "is not understood"),
        ("(" * 500 + "n" + ")" * 500, ""),
    ],
)
def test_what_is_refused(text, told):
    with pytest.raises(UserError) as refused:
        parse_where(text)
    assert told in str(refused.value)
    assert "write for example" in str(refused.value)


@given(st.text("nx1.,()[]'<=>!+- \0ü", max_size=30))
def test_any_text_is_understood_or_refused(text):
    try:
        parse_where(text)
    except UserError:
        return


@given(low=st.integers(-5, 5), high=st.integers(-5, 5), flip=st.booleans())
def test_as_python_does(low, high, flip):
    text = f"{low} < n and x <= {high} or n == {high}"
    text = f"not ({text})" if flip else text
    assert chosen(text) == [row["n"] for row in ROWS if eval(text, {}, row)]
