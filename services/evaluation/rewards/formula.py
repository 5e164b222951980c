"""The arithmetic of `multi` graders: an expression over scores, written as in a pocket calculator.

What a client writes is taken apart into numbers, names and signs, read by Python's own parser for its precedence alone,
and then calculated here: nothing but the nodes named below is ever let through, and nothing is executed.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from services.evaluation.errors import FormulaWithoutValue, InvalidFormula

MOST_CHARACTERS = 1_000
MOST_DEPTH = 50
"""Operations within operations; a sum of n terms is n - 1 deep."""
_WORD = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.])|[A-Za-z_]\w*|[-+*/^(),])", re.ASCII)
_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
_SIGNS: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_OF_ONE: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_OF_MANY: dict[str, Callable[[tuple[float, ...]], float]] = {"min": min, "max": max}
FUNCTIONS = (*_OF_MANY, *_OF_ONE)


@dataclass(frozen=True)
class Formula:
    """An expression that was found to be arithmetic."""

    root: ast.expr

    def value(self, scores: Mapping[str, float]) -> float:
        """What it comes to, a finite number; raises FormulaWithoutValue, naming the operation that has none."""
        return _value(self.root, scores)


def parse(text: str, names: Collection[str], *, param: str) -> Formula:
    """The formula over `names` that a text says; raises InvalidFormula for anything but arithmetic."""
    try:
        source = " ".join("**" if word == "^" else word for word in _words(text))
        root = ast.parse(source, mode="eval").body
        _check(root, names, MOST_DEPTH)
    except InvalidFormula as error:
        raise InvalidFormula(f"{param}: {error.message}", param=param) from error
    # the last two: what is nested too deeply for the parser itself
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise InvalidFormula(f"{param}: {_shown(text)} is no complete expression.", param=param) from error
    return Formula(root)


def _words(text: str) -> Iterator[str]:
    if len(text) > MOST_CHARACTERS:
        raise InvalidFormula(f"It has {len(text)} characters; at most {MOST_CHARACTERS} are read.")
    here, end = 0, len(text.rstrip())
    while here < end:
        found = _WORD.match(text, here)
        if found is None:
            raise InvalidFormula(
                f"{_shown(text[here:].lstrip())} begins with no number, name or sign; numbers, the graders' names, "
                f"+ - * / ^, brackets and {', '.join(FUNCTIONS)} may stand in a formula."
            )
        yield found[1]
        here = found.end()


def _check(node: ast.expr, names: Collection[str], depth: int) -> None:
    """Raise InvalidFormula for whatever `_value` could not calculate."""
    if depth == 0:
        raise InvalidFormula(f"It is nested more than {MOST_DEPTH} deep.")
    if isinstance(node, ast.Constant):
        _check_number(node)
    elif isinstance(node, ast.Name):
        _check_name(node.id, names)
    elif not _is_operation(node):
        raise InvalidFormula(f"{_written(node)} is no arithmetic.")
    else:
        for operand in _operands(node):
            _check(operand, names, depth - 1)


def _check_number(node: ast.Constant) -> None:
    if type(node.value) not in (int, float) or not math.isfinite(_float(node.value)):
        raise InvalidFormula(f"{_written(node)} is no number that can be calculated with.")


def _check_name(name: str, names: Collection[str]) -> None:
    if name not in names:
        known = ", ".join(sorted(names))
        raise InvalidFormula(f"{_shown(name)} is none of its graders, which are {known}.")


def _is_operation(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return type(node.op) in _OPERATIONS
    if isinstance(node, ast.UnaryOp):
        return type(node.op) in _SIGNS
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.keywords:
        return False
    return len(node.args) >= 1 if node.func.id in _OF_MANY else node.func.id in _OF_ONE and len(node.args) == 1


def _operands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    assert isinstance(node, ast.Call)
    return node.args


def _value(node: ast.expr, scores: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant):
        return _float(node.value)
    if isinstance(node, ast.Name):
        return scores[node.id]
    operands = tuple(_value(operand, scores) for operand in _operands(node))
    try:
        found = float(_calculate(node, operands))
    except (ArithmeticError, ValueError) as error:  # a division by zero, beyond a double, a root of less than zero
        raise FormulaWithoutValue(f"{_written(node)} has no value for {_listed(operands)}: {error}.") from error
    if not math.isfinite(found):
        raise FormulaWithoutValue(f"{_written(node)} has no finite value for {_listed(operands)}.")
    return found


def _calculate(node: ast.expr, operands: tuple[float, ...]) -> float:
    if isinstance(node, ast.BinOp):
        return _OPERATIONS[type(node.op)](*operands)
    if isinstance(node, ast.UnaryOp):
        return _SIGNS[type(node.op)](*operands)
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    many = _OF_MANY.get(node.func.id)
    return _OF_ONE[node.func.id](*operands) if many is None else many(operands)


def _float(number: object) -> float:
    assert isinstance(number, int | float)
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _written(node: ast.expr) -> str:
    """A part of the formula as its author writes it."""
    return _shown(ast.unparse(node).replace("**", "^"))


def _listed(operands: tuple[float, ...]) -> str:
    return " and ".join(f"{operand:g}" for operand in operands)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
