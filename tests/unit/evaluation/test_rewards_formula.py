"""Formulas of `multi` graders: arithmetic as everybody writes it, and nothing else."""

import contextlib
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.errors import FormulaWithoutValue, InvalidFormula
from services.evaluation.rewards.formula import MOST_CHARACTERS, MOST_DEPTH, parse

SCORES = {"a": 0.5, "b": 2.0, "zero": 0.0, "e5": 3.0}


def value(text: str) -> float:
    return parse(text, SCORES, param="here").value(SCORES)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a", 0.5),
        ("0.5 * a + 0.5 * b", 1.25),
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("8 / 4 / 2", 1),
        ("2 - 3 - 4", -5),
        ("1 + b ^ 2 * 3", 13),  # ^ binds closer than *, whatever Python's ^ does
        ("2 ^ 3 ^ 2", 512),
        ("-b ^ 2", -4),
        ("b ^ -1", 0.5),
        ("b^a", math.sqrt(2)),
        ("+a - -b", 2.5),
        ("min(a, b, zero)", 0),
        ("max(a,b)", 2),
        ("min(a)", 0.5),
        ("abs(a - b)", 1.5),
        ("floor(2.7) + ceil(2.1)", 5),
        ("exp(log(b))", 2),
        ("sqrt(16) * .5e1", 20),
        ("e5 + 1e2", 103),
        (" a\n+\tb ", 2.5),
        ("1", 1),
    ],
)
def test_calculates_as_a_pocket_calculator_does(text: str, result: float) -> None:
    assert value(text) == pytest.approx(result)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a +",
        "a b",
        "(a",
        "a)",
        "a ** b",
        "a // b",
        "a % b",
        "a, b",
        "a = b",
        "a == b",
        "a < b",
        "a and b",
        "not a",
        "a if b else a",
        "lambda: a",
        "[a]",
        "a[0]",
        "a.real",
        "a.__class__",
        "'a'",
        '"a"',
        "True",
        "None",
        "1j",
        "0x10",
        "1_000",
        "1.2.3",
        "2a",
        "1if a else 2",
        "9" * 400,
        "1e999",
        "a # + b",
        "a; b",
        "a := 1",
        "`a`",
        "a\\\n",
        "ａ",  # a fullwidth letter, which Python would read as a
        "unknown",
        "__import__('os')",
        "eval(a)",
        "pow(a, b)",
        "log(a, b)",
        "abs()",
        "min()",
        "min(*a)",
        "abs(x=a)",
        "min",
        "a(b)",
        "(min)(a)(b)",
    ],
)
def test_refuses_whatever_is_no_arithmetic(text: str) -> None:
    with pytest.raises(InvalidFormula) as refused:
        value(text)
    assert refused.value.param == "here"
    assert refused.value.message.startswith("here: ")


def test_says_which_names_it_knows() -> None:
    with pytest.raises(InvalidFormula, match=r"'close' is none of its graders, which are a, b, e5, zero"):
        value("a + close")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a / zero", "'a / zero' has no value for 0.5 and 0"),
        ("1 + b / (a - 0.5)", "division by zero"),
        ("log(zero)", "'log(zero)'"),
        ("sqrt(-a)", "'sqrt(-a)' has no value for -0.5"),
        ("exp(b ^ 10)", "range error"),
        ("zero ^ -1", "'zero ^ (-1)' has no value for 0 and -1"),
        ("(-b) ^ a", "'(-b) ^ a'"),  # a complex number to Python
        ("1e308 * 10", "no finite value"),
        ("b ^ 2000", "'b ^ 2000'"),
    ],
)
def test_names_the_operation_that_has_no_value(text: str, says: str) -> None:
    with pytest.raises(FormulaWithoutValue) as failed:
        value(text)
    assert says in failed.value.message


@pytest.mark.parametrize(
    "text",
    [
        "+".join("a" for _ in range(MOST_DEPTH + 2)),
        "-" * (MOST_CHARACTERS - 1) + "a",
        "(" * 499 + "a" + ")" * 499,
        "abs(" * 150 + "a" + ")" * 150,
        "2^" * 400 + "a",
        "a" * (MOST_CHARACTERS + 1),
        "-" * 900 + "a//b",
    ],
)
def test_refuses_what_is_too_long_or_too_deep_even_where_the_stack_is_small(text: str) -> None:
    heard: list[object] = []

    def ask() -> None:
        try:
            heard.append(value(text))
        except InvalidFormula as error:
            heard.append(error)

    asking = threading.Thread(target=ask)
    before = threading.stack_size(1 << 19)
    try:
        asking.start()
    finally:
        threading.stack_size(before)
    asking.join()
    assert isinstance(heard[0], InvalidFormula)


def test_a_sum_of_as_many_graders_as_there_may_be_is_not_too_deep() -> None:
    names = [f"g{number}" for number in range(20)]
    formula = parse(" + ".join(f"0.05 * {name}" for name in names), names, param="p")
    assert formula.value(dict.fromkeys(names, 1.0)) == pytest.approx(1)


NUMBERS = st.floats(min_value=-100, max_value=100).map(lambda number: (f"({number!r})", number))
FORMULAS = st.recursive(
    NUMBERS | st.sampled_from(list(SCORES.items())),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: (f"({two[0][0]} + {two[1][0]})", two[0][1] + two[1][1])),
        st.tuples(inner, inner).map(lambda two: (f"({two[0][0]} - {two[1][0]})", two[0][1] - two[1][1])),
        st.tuples(inner, inner).map(lambda two: (f"{two[0][0]} * {two[1][0]}", two[0][1] * two[1][1])),
        st.tuples(inner, inner).map(
            lambda two: (f"max({two[0][0]}, {two[1][0]})", max(two[0][1], two[1][1])),
        ),
        inner.map(lambda one: (f"abs({one[0]})", abs(one[1]))),
    ),
    max_leaves=8,
)


@given(FORMULAS)
def test_any_formula_comes_to_what_its_parts_come_to(made: tuple[str, float]) -> None:
    text, result = made
    assert value(text) == pytest.approx(result, rel=1e-9, abs=1e-9)


@given(st.text() | st.text(alphabet="ab.(),+-*/^0 19elogminsqrt"))
def test_any_text_has_a_finite_value_or_is_refused_by_name(text: str) -> None:
    with contextlib.suppress(InvalidFormula, FormulaWithoutValue):
        assert math.isfinite(value(text))
