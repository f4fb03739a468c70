"""What may be typed, what it means, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nonvacuous.approximation import bumps, enclosure
from nonvacuous.approximation.expressions import FUNCTIONS, constant, parse
from nonvacuous.core.errors import InvalidInput

X = torch.tensor([0.25, 0.5, 1.5], dtype=torch.float64)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("x", lambda x: x),
        ("  -x + 2*(x - 1)/4  ", lambda x: -x + (x - 1) / 2),
        ("x**2 + x**-1 + x**0.5", lambda x: x**2 + 1 / x + x.sqrt()),
        ("-x**2", lambda x: -(x**2)),
        ("2**x", lambda x: 2**x),
        ("x**x", lambda x: x**x),
        ("sin(x) + cos(x) + tan(x)", lambda x: x.sin() + x.cos() + x.tan()),
        ("exp(-x) * log(x) * tanh(x)", lambda x: (-x).exp() * x.log() * x.tanh()),
        ("abs(x - 1) + sqrt(x)", lambda x: (x - 1).abs() + x.sqrt()),
        ("max(x, 1, 0.3) - min(1, x)", lambda x: x.clamp_min(1) - x.clamp_max(1)),
        ("3", lambda x: x * 0 + 3),
        ("pi*e", lambda x: x * 0 + math.pi * math.e),
        ("max(1, 2)*x + log(e) + abs(-2) + 2**3", lambda x: 2 * x + 11),
        ("1e-3*x + .5", lambda x: x / 1000 + 0.5),
        ("x**0", lambda x: x * 0 + 1),
        ("x1", lambda x: x),
    ],
)
def test_it_means_what_it_says(text: str, same: object) -> None:
    f = parse(text)
    assert f.dimension == 1
    torch.testing.assert_close(f(X), same(X), rtol=1e-14, atol=1e-15)  # type: ignore[operator]
    torch.testing.assert_close(f(X[:, None]), same(X), rtol=1e-14, atol=1e-15)  # type: ignore[operator]


def test_several_variables() -> None:
    f = parse("x1*x3 - x")
    x = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    assert f.dimension == 3
    torch.testing.assert_close(f(x), x[:, 0] * x[:, 2] - x[:, 0])
    assert parse("x1", 2).dimension == 2
    assert parse("1", 2)(x[:, :2]).tolist() == [1.0, 1.0]
    with pytest.raises(InvalidInput, match="names x3, but the domain has 2"):
        parse("x3", 2)


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("2x", 1, "a product is written"),
        ("x^2", 1, "a power is written"),
        ("x // 2", 1, "a quotient"),
        ("sin(y)", 5, "'y' is unknown"),
        ("sni(x)", 1, "did you mean sin"),
        ("x + __import__('os')", 5, "function '__import__' is unknown"),
        ("x.real", 1, "Attribute"),
        ("x[0]", 1, "Subscript"),
        ("(lambda: x)()", 1, "Call"),
        ("[x]", 1, "List"),
        ("x if x else 1", 1, "IfExp"),
        ("x < 1", 1, "Compare"),
        ("x and 1", 1, "BoolOp"),
        ("not x", 1, "UnaryOp"),
        ("~x", 1, "UnaryOp"),
        ("'x'", 1, "not a real number"),
        ("2j", 1, "not a real number"),
        ("True", 1, "not a real number"),
        ("x + None", 5, "not a real number"),
        ("sin", 1, "is a function"),
        ("  1 + sin(x, x)", 7, "one argument, not 2"),
        ("max(x)", 1, "two or more"),
        ("sin(x=1)", 1, "Call"),
        ("max(*x, 1)", 5, "Starred"),
        ("(x := 1)", 2, "NamedExpr"),
        ("1e999", 1, "beyond float64"),
        ("x; x", 2, "cannot be read"),
        ("x +", 4, "cannot be read"),
        ("(x", 1, "cannot be read"),
        ("x\n+1", 2, "no meaning"),
        ("x + π", 5, "no meaning"),
        ("f'{x}'", 1, "JoinedStr"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, column: int, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parse(text)
    assert f"column {column}," in str(caught.value) and "Allowed: numbers" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "   ", "x" * 2000, "+".join(["x"] * 490), "(" * 300 + "x" + ")" * 300, "-" * 900 + "x", "9" * 950, "+" * 999]
)
def test_size_is_limited(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text)


@pytest.mark.parametrize(
    "text", ["1/0", "10**400", "0**-1", "log(0)", "sqrt(-1)", "(-1)**0.5", "exp(1000)", "9.0**9**9", "x**65"]
)
def test_constants_without_a_value_are_refused_where_they_stand(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"column 1, at.*no value"):
        parse(text)(X)


def test_constants() -> None:
    assert constant(" -2*pi ") == -2 * math.pi
    for text, says in (("x", "variable"), ("x1 + 1", "variable"), ("1/0", "no value"), ("1e308*10", "finite"), ("", "empty")):
        with pytest.raises(InvalidInput, match=says):
            constant(text)


@pytest.mark.parametrize(
    "text",
    ["sin(3*x)*exp(-x)", "max(x, 1 - x, 0.25)", "min(x**2, tanh(x))", "tan(x/2)", "abs(x - 1)/(1 + x**2)", "x**-2", "x**1.5",
     "2**x", "x**x", "sqrt(x)", "7", "x**0 + x", "log(x)**3"],
)  # fmt: skip
def test_lipschitz_constants_are_proved(text: str) -> None:
    f = parse(text)
    bound = enclosure.lipschitz(f, ((0.5, 2.0),))
    x = torch.linspace(0.5, 2.0, 4001, dtype=torch.float64)
    steepest = float((f(x).diff() / x.diff()).abs().max())
    assert steepest <= bound * (1 + 1e-9) <= 1.2 * steepest + 0.3


def test_a_network_is_built_from_it() -> None:
    built = bumps.approximate(parse("max(x1, x2) * cos(x1)"), [(0, 1), (0, 1)], 0.05)
    assert built.error.upper <= 0.05
    for text, low, says in (("x/abs(x)", -0.9, "unbounded"), ("1/x", -1.0, "is inf at 0.0"), ("sqrt(x)", 0.0, "unbounded")):
        with pytest.raises(InvalidInput, match=says):
            bumps.approximate(parse(text), (low, 1.0), 0.1)


@given(st.text(alphabet="x123+-*/().,e pi sincoabmaxlg_'\"[]{}:=^%@", max_size=40))
@settings(max_examples=400, deadline=None)
def test_no_text_does_harm(text: str) -> None:
    try:
        value = parse(text)(torch.rand(5, 3, dtype=torch.float64) + 0.5)
    except InvalidInput:
        return
    assert isinstance(value, torch.Tensor) and value.shape == (5,)


def test_every_function_is_known_to_the_reader() -> None:
    for name in FUNCTIONS:
        arguments = "x, 1" if name in ("min", "max") else "x"
        assert parse(f"{name}({arguments})")(X).shape == X.shape
