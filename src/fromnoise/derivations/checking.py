"""What a machine check is: a claim, the steps that test it, and mutants that must fail.

A check compares a *claim*, the formula as the book states it, with something that does not come
from that formula: a derivative that SymPy takes, an integral done by quadrature, the exact
mixture. It is run once with the claim and once with each *mutant* of the claim (a sign, a factor,
a term left out), which it must refute; a check that accepts a wrong formula has shown nothing.

    @check(
        "cor-example",
        claim=lambda x: 2 * x,
        mutants={"without the factor": lambda x: x, "with the sign": lambda x: -2 * x},
        covers="every real x",
        omits="nothing",
    )
    def example(steps, claim):
        '''The derivative of the square.'''
        x = sympy.Symbol("x", real=True)
        steps.equal("differentiate x^2", sympy.diff(x**2, x), claim(x))
"""

from __future__ import annotations

import inspect
import random
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mpmath
import sympy
from sympy.core.function import AppliedUndef

DIGITS = 40  # of the arithmetic in which counterexamples are looked for
TRIALS = 4  # points at which they are looked for: two signs have four cases


class Refuted(Exception):
    """The claim is wrong: an explicit value contradicts it."""


class Undecided(Exception):
    """The machine could neither confirm nor contradict the claim, so the check is no good."""


@dataclass(frozen=True)
class Step:
    """One line of a check: what was compared, how, and with which result.

    Attributes:
        text: what the step compares.
        kind: "note", "symbolic" or "numeric".
        result: what came out.
        tolerance: the largest error that a numeric step allows; 0 for the others.
    """

    text: str
    kind: str
    result: str = ""
    tolerance: float = 0.0


class Steps:
    """Takes the steps of a check, and keeps a record of them.

    Args:
        echo: called with each step as it is taken; nothing unless given.
    """

    def __init__(self, echo: Callable[[Step], None] | None = None) -> None:
        self.taken: list[Step] = []
        self._echo = echo

    def _take(self, step: Step) -> None:
        self.taken.append(step)
        if self._echo:
            self._echo(step)

    def say(self, text: str) -> None:
        """Tell the reader something; decides nothing."""
        self._take(Step(text, "note"))

    def equal(self, text: str, left: Any, right: Any = 0) -> None:
        """Two expressions or matrices of SymPy are equal for all values of their symbols.

        First counterexamples are looked for, with numbers for the symbols and concrete smooth
        functions for undefined ones, of both signs unless declared positive; then the difference
        is brought to zero symbolically. Only the latter confirms.

        Raises:
            Refuted: a counterexample was found.
            Undecided: there is none, and the difference does not simplify to zero either.
        """
        for difference in _entries(left, right):
            _vanishes(text, difference)
        self._take(Step(text, "symbolic", "the difference simplifies to 0"))

    def true(self, text: str, condition: Any) -> None:
        """An exact statement (a comparison of exact numbers, a limit, a sign) is true.

        Raises:
            Refuted: it is false.
            Undecided: it is neither: SymPy did not evaluate it.
        """
        if condition in (True, sympy.true):
            self._take(Step(text, "symbolic", "true"))
        elif condition in (False, sympy.false):
            raise Refuted(f"{text}: false")
        else:
            raise Undecided(f"{text}: not decided, {condition}")

    def close(self, text: str, value: Any, exact: Any, *, tolerance: float, why: str) -> None:
        """Numbers agree within a tolerance.

        Args:
            text: what is compared.
            value: a number, a tensor, an array or a list of numbers.
            exact: what it should be, of the same shape.
            tolerance: the largest allowed |value - exact| / max(1, |exact|), with the largest
                entry of each.
            why: one line on why this tolerance.

        Raises:
            Refuted: they do not agree.
            Undecided: one of them is not a finite number.
            ValueError: there are more numbers on one side than on the other.
        """
        values, exacts = _numbers(value), _numbers(exact)
        if len(exacts) == 1 and len(values) > 1:
            exacts = exacts * len(values)
        if len(values) != len(exacts):
            raise ValueError(f"{text}: {len(values)} values against {len(exacts)}.")
        _finite(text, [*values, *exacts])
        with mpmath.workdps(DIGITS):
            scale = max(1, *map(abs, exacts))
            error = max(abs(a - b) for a, b in zip(values, exacts, strict=True)) / scale
        result = f"error {mpmath.nstr(error, 2)}, allowed {tolerance:.0e} ({why})"
        if error > tolerance:
            raise Refuted(f"{text}: {result}")
        self._take(Step(text, "numeric", result, tolerance))

    def at_most(
        self, text: str, value: Any, bound: Any, *, tolerance: float = 0.0, why: str = "exact"
    ) -> None:
        """Numbers do not exceed their bounds, but for a tolerance relative to max(1, |bound|).

        Raises:
            Refuted: one does.
            Undecided: one of them is not a finite number.
        """
        values, bounds = _numbers(value), _numbers(bound)
        if len(bounds) == 1:
            bounds = bounds * len(values)
        _finite(text, [*values, *bounds])
        with mpmath.workdps(DIGITS):
            excess = max((a - b) / max(1, abs(b)) for a, b in zip(values, bounds, strict=True))
        if excess > tolerance:
            raise Refuted(f"{text}: the bound is exceeded by {mpmath.nstr(excess, 3)}")
        largest = mpmath.nstr(max(values), 3)
        result = f"largest value {largest}, room {mpmath.nstr(-excess, 2)}"
        if tolerance:
            result += f", allowed excess {tolerance:.0e} ({why})"
        self._take(Step(text, "numeric", result, tolerance))

    @property
    def deciding(self) -> list[Step]:
        """The steps that could have failed."""
        return [step for step in self.taken if step.kind != "note"]


def claims(**parts: Any) -> Claims:
    """A claim of several formulas, by name; see `Claims`."""
    return Claims(**parts)


class Claims(SimpleNamespace):
    """Several formulas that one result states."""

    def but(self, **parts: Any) -> Claims:
        """The same claim with some of its formulas replaced: a mutant.

        Raises:
            ValueError: there is no formula of that name to replace.
        """
        unknown = parts.keys() - vars(self).keys()
        if unknown:
            raise ValueError(f"The claim has no {sorted(unknown)}, only {sorted(vars(self))}.")
        return Claims(**{**vars(self), **parts})


@dataclass(frozen=True)
class Check:
    """How a result is checked.

    Attributes:
        label: of the statement in the book.
        test: takes `(steps, claim)`.
        claim: the formula, or `claims(...)`, as the book states it.
        mutants: what is wrong with it, and the wrong formula.
        covers: which part of the statement the check establishes.
        omits: what it does not touch.
    """

    label: str
    test: Callable[[Steps, Any], None]
    claim: Any
    mutants: Mapping[str, Any]
    covers: str
    omits: str

    @property
    def module(self) -> str:
        """The module that holds the check."""
        return self.test.__module__

    @property
    def source(self) -> tuple[Path, int, int]:
        """File, first line and last line of the check."""
        lines, first = inspect.getsourcelines(self.test)
        return Path(inspect.getsourcefile(self.test)), first, first + len(lines) - 1


@dataclass(frozen=True)
class Unchecked:
    """A result that no machine checks here, and the reason."""

    label: str
    why: str
    module: str


CHECKS: dict[str, Check] = {}
EXCEPTIONS: dict[str, Unchecked] = {}


def check(
    label: str, *, claim: Any, mutants: Mapping[str, Any], covers: str, omits: str
) -> Callable[[Callable[[Steps, Any], None]], Callable[[Steps, Any], None]]:
    """Register a function as the check of the statement with this label.

    Raises:
        ValueError: there are fewer than two mutants, nothing is said of what is covered or
            omitted, or the label has a check or an exception already.
    """
    if len(mutants) < 2:
        raise ValueError(f"{label}: {len(mutants)} mutant(s); a check needs at least two.")
    if not covers.strip() or not omits.strip():
        raise ValueError(f"{label}: say what the check covers, and what it omits.")
    _unknown(label)

    def register(test: Callable[[Steps, Any], None]) -> Callable[[Steps, Any], None]:
        if not inspect.getdoc(test):
            raise ValueError(f"{label}: {test.__name__} needs a docstring.")
        CHECKS[label] = Check(label, test, claim, dict(mutants), covers, omits)
        return test

    return register


def unchecked(label: str, *, why: str) -> None:
    """Register the reason why no machine checks the statement with this label.

    Raises:
        ValueError: no reason is given, or the label has a check or an exception already.
    """
    if not why.strip():
        raise ValueError(f"{label}: say why it can't be checked.")
    _unknown(label)
    caller = inspect.currentframe().f_back
    EXCEPTIONS[label] = Unchecked(label, why, caller.f_globals["__name__"])


def _unknown(label: str) -> None:
    if label in CHECKS or label in EXCEPTIONS:
        raise ValueError(f"{label} has a check or an exception already.")


@dataclass(frozen=True)
class Outcome:
    """What came out of a check.

    Attributes:
        label: of the statement.
        passed: whether the claim was accepted, and every mutant refuted.
        status: "symbolic", "numeric", or "failed".
        tolerance: the largest tolerance of a numeric step; 0 if there is none.
        steps: the steps taken with the claim.
        mutants: each mutant, with what refuted it.
        failure: what went wrong; empty if it passed.
        seconds: how long it took.
    """

    label: str
    passed: bool
    status: str
    tolerance: float
    steps: list[Step]
    mutants: dict[str, str] = field(default_factory=dict)
    failure: str = ""
    seconds: float = 0.0


def run(
    chosen: Check, *, mutants: bool = True, echo: Callable[[Step], None] | None = None
) -> Outcome:
    """Run a check on its claim and, unless told otherwise, on every mutant of it."""
    start = time.perf_counter()
    steps, refuted, failure = Steps(echo), {}, ""
    try:
        chosen.test(steps, chosen.claim)
        if not steps.deciding:
            failure = "it takes no step that could fail"
    except (Refuted, Undecided) as error:
        failure = str(error)
    for name, mutant in chosen.mutants.items() if mutants and not failure else ():
        try:
            chosen.test(Steps(), mutant)
            failure = f"the mutant {name!r} is accepted"
        except Refuted as error:
            refuted[name] = str(error)
        except Undecided as error:
            failure = f"the mutant {name!r} is not refuted: {error}"
    tolerance = max((step.tolerance for step in steps.deciding), default=0.0)
    numeric = any(step.kind == "numeric" for step in steps.deciding)
    return Outcome(
        label=chosen.label,
        passed=not failure,
        status="failed" if failure else "numeric" if numeric else "symbolic",
        tolerance=tolerance,
        steps=steps.taken,
        mutants=refuted,
        failure=failure,
        seconds=time.perf_counter() - start,
    )


# ---------------------------------------------------------------------------------------------
# Deciding whether an expression is zero


def _entries(left: Any, right: Any) -> list[sympy.Expr]:
    """The differences of two expressions, matrices or sequences, entry by entry."""
    if isinstance(left, sympy.MatrixBase) and right == 0:
        right = sympy.zeros(*left.shape)
    if isinstance(left, sympy.MatrixBase) or isinstance(right, sympy.MatrixBase):
        left, right = sympy.Matrix(left), sympy.Matrix(right)
        if left.shape != right.shape:
            raise ValueError(f"shapes {left.shape} and {right.shape} can't be compared.")
        return list(left - right)
    if isinstance(left, list | tuple):
        right = right if isinstance(right, list | tuple) else [right] * len(left)
        return [a - b for a, b in zip(map(sympy.sympify, left), right, strict=True)]
    return [sympy.sympify(left) - sympy.sympify(right)]


def _simplifiers() -> Iterator[Callable[[sympy.Expr], sympy.Expr]]:
    yield sympy.expand
    yield lambda e: sympy.cancel(sympy.together(e))
    yield sympy.simplify
    yield lambda e: sympy.simplify(sympy.expand_log(sympy.expand(e), force=True))
    yield lambda e: sympy.simplify(e.rewrite(sympy.exp))
    yield lambda e: sympy.radsimp(sympy.simplify(sympy.powdenest(e, force=True)))


def _vanishes(text: str, difference: sympy.Expr) -> None:
    """Return if `difference` is zero for all values of its symbols, else raise."""
    difference = difference.doit()
    if difference == 0:
        return
    found = _counterexample(difference)
    if found:
        raise Refuted(f"{text}: {found}")
    for simplify in _simplifiers():
        if simplify(difference) == 0:
            return
    raise Undecided(f"{text}: {sympy.simplify(difference)} does not simplify to 0")


def _counterexample(difference: sympy.Expr) -> str:
    """Where the difference is not zero, in words; empty if it is zero at every point tried."""
    for trial in range(TRIALS):
        concrete = _with_concrete_functions(difference, trial)
        symbols = sorted(concrete.free_symbols, key=str)
        point = {symbol: _value(symbol, trial, i) for i, symbol in enumerate(symbols, 1)}
        try:
            value = concrete.subs(point).doit().evalf(DIGITS)
            if not value.is_number or not sympy.Abs(value).is_finite:
                continue
            if abs(value) > 10 ** (-DIGITS // 2):
                where = ", ".join(f"{s} = {v}" for s, v in point.items())
                return f"the two sides differ by {sympy.N(value, 3)} at {where}"
        except (TypeError, ValueError, ArithmeticError):
            continue
    return ""


def _random(name: str, trial: int) -> random.Random:
    return random.Random(zlib.crc32(f"{name}/{trial}".encode()))


def _value(symbol: sympy.Symbol, trial: int, place: int) -> sympy.Expr:
    """A number that a symbol may stand for, the same in every run.

    Neighbouring symbols that may be negative take all pairs of signs in the four trials, so an
    identity that needs positive numbers is found out.
    """
    draw = _random(symbol.name, trial)
    if symbol.is_integer:
        return sympy.Integer(draw.randint(2, 5))
    value = sympy.Rational(draw.randint(30, 190), 97)
    if symbol.is_negative or symbol.is_nonpositive:
        return -value
    if symbol.is_positive or symbol.is_nonnegative:
        return value
    return value * _sign(trial, place)


def _sign(trial: int, place: int) -> int:
    """1 at first; over the four trials, places that differ modulo 3 are independent."""
    return (-1) ** (trial & (place % 3 + 1)).bit_count()


def _with_concrete_functions(expression: sympy.Expr, trial: int) -> sympy.Expr:
    """The expression with concrete functions for undefined ones, derivatives taken."""

    def functions(part: sympy.Expr) -> sympy.Expr:
        return part.replace(lambda e: isinstance(e, AppliedUndef), lambda e: _concrete(e, trial))

    def by_function(part: sympy.Expr) -> sympy.Expr:
        # d alpha(tau(x)) / d tau(x), as the chain rule leaves it: tau(x) is a variable here
        inner, variables, values = part.expr, [], {}
        for variable, count in part.variable_count:
            if not variable.is_Symbol:
                values[dummy := sympy.Dummy(real=True)] = variable
                inner, variable = inner.subs(variable, dummy), dummy
            variables.append((variable, count))
        return sympy.diff(functions(inner), *variables).subs(values)

    def is_by_function(part: sympy.Expr) -> bool:
        return isinstance(part, sympy.Derivative) and not all(v.is_Symbol for v in part.variables)

    return functions(expression.replace(is_by_function, by_function)).doit()


def _concrete(applied: AppliedUndef, trial: int) -> sympy.Expr:
    """A smooth function without zeros in place of an undefined one, the same in every run."""
    draw = _random(applied.func.__name__, trial)

    def linear() -> sympy.Expr:
        return sum(sympy.Rational(draw.randint(-9, 9), 13) * a for a in applied.args)

    value = sympy.exp(linear()) + (linear() + sympy.Rational(draw.randint(1, 9), 7)) ** 2
    if applied.is_nonnegative:
        return value
    return value * _sign(trial, zlib.crc32(applied.func.__name__.encode()))


def _numbers(value: Any) -> list[mpmath.mpf]:
    """Numbers, tensors, arrays, matrices and (nested) sequences as one list."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if hasattr(value, "tolist") and not isinstance(value, mpmath.matrix):
        value = value.tolist()
    if isinstance(value, sympy.MatrixBase | mpmath.matrix):
        value = list(value)
    if isinstance(value, list | tuple):
        return [number for part in value for number in _numbers(part)]
    with mpmath.workdps(DIGITS):
        if isinstance(value, sympy.Expr):
            return [mpmath.mpmathify(sympy.N(value, DIGITS))]
        return [mpmath.mpmathify(value)]


def _finite(text: str, numbers: list[mpmath.mpf]) -> None:
    if not numbers:
        raise Undecided(f"{text}: there is nothing to compare")
    if not all(mpmath.isfinite(number) for number in numbers):
        raise Undecided(f"{text}: not a finite number")
