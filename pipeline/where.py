"""Conditions on rows as text, such as ``fps >= 24 and contains(caption, 'dog')``."""

import ast
from collections.abc import Callable
from typing import Any

import pyarrow.compute as pc

from pipeline.errors import UserError

HELP = """\
  fps >= 24 and bucket == 'h544w992'          and, or, not, ( ); == != < <= > >=; + - * /
  split in ('train', 'val')                   in, not in
  caption is not None                         is None, is not None
  contains(caption, 'dog')                    starts_with, ends_with, matches (a regular expression)
  length(caption) > 20                        characters; lower(caption) for small letters
  column('my score') > 0.5                    a column whose name is no word
A row for which the condition has no value (a column of it is null) is left out."""

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
_OF_TEXT: dict[str, Callable[[Any, str], Any]] = {
    "contains": pc.match_substring,
    "starts_with": pc.starts_with,
    "ends_with": pc.ends_with,
    "matches": pc.match_substring_regex,
}
_OF_ONE: dict[str, Callable[[Any], Any]] = {"length": pc.utf8_length, "lower": pc.utf8_lower}


def parse_where(text: str) -> pc.Expression:
    """The condition as an Arrow expression. Nothing of the text is run.

    Raises ``UserError`` for what is no condition; columns and their types are not looked at.
    """
    try:
        found = _expression(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        told = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UserError(f"the condition {text!r}: {told}; write for example\n{HELP}") from error
    if not isinstance(found, pc.Expression):
        raise UserError(f"the condition {text!r} names no column; write for example\n{HELP}")
    return found


def _expression(node: ast.expr) -> Any:
    """An expression, or the value of a literal."""
    match node:
        case ast.Name(id=name):
            return pc.field(name)
        case ast.Constant(value=value) if isinstance(value, str | int | float | None):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)) if isinstance(
            value, int | float
        ):
            return -value
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_column(operand)
        case ast.BoolOp(op=op, values=values):
            first, *others = map(_column, values)
            for other in others:
                first = first & other if isinstance(op, ast.And) else first | other
            return first
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_expression(left), _expression(right))
        case ast.Compare(left=left, ops=ops, comparators=others):
            found = None
            for how, right in zip(ops, others, strict=True):
                one = _comparison(left, how, right)
                found, left = one if found is None else found & one, right
            return found
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name, arguments)
    raise ValueError(f"{ast.unparse(node)!r} is not understood")


def _column(node: ast.expr) -> pc.Expression:
    found = _expression(node)
    if not isinstance(found, pc.Expression):
        raise ValueError(f"{ast.unparse(node)!r} is a value, and no condition")
    return found


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
    if isinstance(op, ast.In | ast.NotIn):
        if not isinstance(right, ast.Tuple | ast.List):
            raise ValueError(f"after 'in' a list is wanted, not {ast.unparse(right)!r}")
        found = _column(left).isin([_literal(value) for value in right.elts])
        return found if isinstance(op, ast.In) else ~found
    if isinstance(op, ast.Is | ast.IsNot):
        if _expression(right) is not None:
            raise ValueError("after 'is' and 'is not' only None is understood")
        column = _column(left)
        return column.is_null() if isinstance(op, ast.Is) else column.is_valid()
    sides = _expression(left), _expression(right)
    if None in [side for side in sides if not isinstance(side, pc.Expression)]:
        raise ValueError("nothing equals None; write 'is None' or 'is not None'")
    return _COMPARISONS[type(op)](*sides)


def _call(name: str, arguments: list[ast.expr]) -> Any:
    if name == "column" and len(arguments) == 1:
        return pc.field(str(_literal(arguments[0])))
    if name in _OF_ONE and len(arguments) == 1:
        return _OF_ONE[name](_column(arguments[0]))
    if name in _OF_TEXT and len(arguments) == 2:
        text = _literal(arguments[1])
        if isinstance(text, str):
            return _OF_TEXT[name](_column(arguments[0]), text)
    raise ValueError(
        f"{name} with {len(arguments)} arguments is not understood: there are column(name), "
        f"{', '.join(f'{n}(column)' for n in _OF_ONE)}, "
        f"{', '.join(f'{n}(column, text)' for n in _OF_TEXT)}"
    )


def _literal(node: ast.expr) -> Any:
    found = _expression(node)
    if isinstance(found, pc.Expression):
        raise ValueError(f"{ast.unparse(node)!r} is no plain value")
    return found
