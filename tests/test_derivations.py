"""The machine checks: each accepts its claim and refutes its mutants; and the checker itself."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import sympy
import torch
from typer.testing import CliRunner

from fromnoise import derivations
from fromnoise.cli import app
from fromnoise.derivations import checking, report
from fromnoise.derivations.checking import (
    CHECKS,
    EXCEPTIONS,
    Refuted,
    Steps,
    Undecided,
    check,
    claims,
    run,
    unchecked,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import build_book  # noqa: E402

derivations.load()
x, y = sympy.symbols("x y", real=True)


@pytest.fixture(scope="module")
def built():
    """What came out in the build just before, of each check whose code is as it was then."""
    if os.environ.get("FROMNOISE_BOOK_IS_BUILT") != "1":
        return {}
    keys, found = build_book.check_keys(), build_book.checked(ROOT / "_build")
    fresh = (entry for name, entry in found.items() if entry["key"] == keys.get(name))
    return {label: outcome for entry in fresh for label, outcome in entry["checks"].items()}


@pytest.mark.parametrize("label", sorted(CHECKS))
def test_a_check_accepts_its_claim_and_refutes_every_mutant(label, built):
    """Run here, unless `make test` has run it already while it brought the book up to date."""
    outcome = SimpleNamespace(**built[label]) if label in built else run(CHECKS[label])
    assert outcome.passed, outcome.failure
    assert outcome.mutants.keys() == CHECKS[label].mutants.keys() and len(outcome.mutants) >= 2
    assert all(outcome.mutants.values()), "each with what refuted it"
    assert outcome.status == ("numeric" if outcome.tolerance else outcome.status)


def test_only_results_with_tags_are_checked():
    known = set(derivations.tags().values())
    assert set(CHECKS) | set(EXCEPTIONS) <= known


def test_every_check_says_what_it_covers_and_what_not():
    for label, chosen in CHECKS.items():
        assert chosen.covers and chosen.omits, label
        assert "$" not in chosen.covers + chosen.omits, f"{label}: plain text, no TeX"
        path, first, last = chosen.source
        assert path.name.endswith(".py") and 0 < first < last


# ---------------------------------------------------------------------------------------------
# The checker


@pytest.fixture
def empty(monkeypatch):
    """No check is registered."""
    monkeypatch.setattr(checking, "CHECKS", {})
    monkeypatch.setattr(checking, "EXCEPTIONS", {})
    return checking


def register(test, claim, mutants):
    check("cor-x", claim=claim, mutants=mutants, covers="all x", omits="nothing")(test)
    return checking.CHECKS["cor-x"]


def derivative(steps, claim):
    """The derivative of a square."""
    steps.equal("differentiate", sympy.diff(x**2, x), claim(x))


def test_a_right_claim_with_wrong_mutants_passes(empty):
    chosen = register(derivative, lambda x: 2 * x, {"half": lambda x: x, "sign": lambda x: -2 * x})
    outcome = run(chosen)
    assert outcome.passed and outcome.status == "symbolic"
    assert "differ by" in outcome.mutants["half"]


def test_a_wrong_claim_fails_with_a_counterexample(empty):
    mutants = {"half": lambda x: x, "sign": lambda x: -2 * x}
    outcome = run(register(derivative, lambda x: 3 * x, mutants))
    assert not outcome.passed and outcome.status == "failed"
    assert "the two sides differ by" in outcome.failure and "x =" in outcome.failure


def test_a_mutant_that_is_no_mutant_fails_the_check(empty):
    mutants = {"half": lambda x: x, "the same": lambda x: x + x}
    outcome = run(register(derivative, lambda x: 2 * x, mutants))
    assert not outcome.passed and "'the same' is accepted" in outcome.failure


def test_a_mutant_must_be_refuted_by_a_number_not_by_an_accident(empty):
    def test(steps, claim):
        """A value."""
        steps.close("value", claim(), 1.0, tolerance=1e-12, why="exact")

    mutants = {"not a number": lambda: float("nan"), "two": lambda: 2.0}
    outcome = run(register(test, lambda: 1.0, mutants))
    assert not outcome.passed and "not a finite number" in outcome.failure


def test_a_check_that_decides_nothing_fails(empty):
    def test(steps, claim):
        """Talk."""
        steps.say("Trust me.")

    outcome = run(register(test, None, {"a": 1, "b": 2}))
    assert not outcome.passed and "no step that could fail" in outcome.failure


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mutants": {"one": 1}}, "at least two"),
        ({"covers": " "}, "what the check covers"),
        ({"omits": ""}, "what it omits"),
    ],
)
def test_an_incomplete_check_is_refused(empty, changes, message):
    options = {"claim": 1, "mutants": {"a": 1, "b": 2}, "covers": "all", "omits": "none"}
    with pytest.raises(ValueError, match=message):
        check("cor-x", **{**options, **changes})(derivative)


def test_a_label_has_one_check_or_one_excuse(empty):
    register(derivative, None, {"a": 1, "b": 2})
    with pytest.raises(ValueError, match="already"):
        unchecked("cor-x", why="It exists.")
    with pytest.raises(ValueError, match="say why"):
        unchecked("cor-y", why=" ")
    unchecked("cor-y", why="It exists.")
    assert checking.EXCEPTIONS["cor-y"].module == __name__


def test_claims_have_parts_that_can_be_replaced():
    claim = claims(one=1, two=2)
    assert claim.but(two=3).two == 3 and claim.two == 2
    with pytest.raises(ValueError, match=r"no \['three'\]"):
        claim.but(three=3)


def test_equal_knows_identities_of_general_functions():
    alpha, sigma = sympy.Function("alpha"), sympy.Function("sigma", positive=True)
    ratio = alpha(x) / sigma(x)
    rate = sympy.diff(alpha(x), x) / sigma(x) - ratio * sympy.diff(sigma(x), x) / sigma(x)
    steps = Steps()
    steps.equal("quotient rule", sympy.diff(ratio, x), rate)
    with pytest.raises(Refuted, match="differ by"):
        steps.equal("without the second term", sympy.diff(ratio, x), sympy.diff(alpha(x), x))
    steps.equal("matrices", sympy.Matrix([[x, y]]) * 2, sympy.Matrix([[2 * x, 2 * y]]))
    with pytest.raises(ValueError, match="can't be compared"):
        steps.equal("shapes", sympy.zeros(1, 2), sympy.zeros(2, 1))


def test_equal_sees_through_a_change_of_time():
    alpha, tau = sympy.Function("alpha"), sympy.Function("tau", positive=True)
    composed = alpha(tau(x))
    outer = sympy.Subs(sympy.diff(alpha(y), y), y, tau(x))
    Steps().equal("chain rule", sympy.diff(composed, x), outer * sympy.diff(tau(x), x))
    with pytest.raises(Refuted):
        Steps().equal("chain rule without its factor", sympy.diff(composed, x), outer)


@pytest.mark.parametrize("names", ["a b", "o p", "p o", "r t", "u t", "alpha beta"])
def test_equal_refutes_what_holds_for_positive_numbers_only(names):
    first, second = sympy.symbols(names, real=True)
    f, g = (sympy.Function(name, real=True)(x) for name in names.split())
    for one in (first, second, f, g):
        for wrong in (sympy.sqrt(one**2) - one, sympy.log(one**2) - 2 * sympy.log(one)):
            with pytest.raises(Refuted, match="differ by"):
                Steps().equal("a square root", wrong)
    with pytest.raises(Refuted, match="differ by"):
        Steps().equal("two signs", sympy.sqrt((first * second) ** 2), first * second)
    one, two = sympy.symbols(names, positive=True)
    Steps().equal("for positive numbers", sympy.sqrt((one * two) ** 2), one * two)
    h = sympy.Function("h", positive=True)(x)
    Steps().equal("for a positive function", sympy.log(h**2), 2 * sympy.log(h))


def test_what_neither_holds_nor_fails_is_undecided():
    unknown = sympy.Integral(sympy.exp(-(x**4)) * sympy.cos(x), (x, 0, sympy.oo))
    with pytest.raises(Undecided):
        Steps().true("an unevaluated relation", sympy.Symbol("p") > 0)
    with pytest.raises((Undecided, Refuted)):
        Steps().equal("no such value", unknown, 0)


def test_true_accepts_only_what_is_true():
    Steps().true("a limit", sympy.limit(sympy.sin(x) / x, x, 0) == 1)
    with pytest.raises(Refuted):
        Steps().true("a false one", sympy.Rational(1, 3) > sympy.Rational(1, 2))


def test_close_measures_relative_to_the_largest_entry():
    steps = Steps()
    value = torch.tensor([1e6, 1.0], dtype=torch.float64)
    steps.close("large", value + 1e-7, value, tolerance=1e-12, why="round-off")
    with pytest.raises(Refuted, match="allowed 1e-12"):
        steps.close("larger", value + 1e-5, value, tolerance=1e-12, why="round-off")
    with pytest.raises(ValueError, match="2 values against 3"):
        steps.close("number", [1, 2], [1, 2, 3], tolerance=1.0, why="")
    with pytest.raises(Undecided, match="nothing to compare"):
        steps.close("nothing", [], [], tolerance=1.0, why="")


def test_at_most_allows_no_excess_but_the_tolerance():
    steps = Steps()
    steps.at_most("below", [1.0, 2.0], [1.0, 2.5])
    steps.at_most("rounding", 1.0 + 1e-13, 1.0, tolerance=1e-12, why="round-off")
    with pytest.raises(Refuted, match="exceeded by"):
        steps.at_most("above", [1.0, 2.6], [1.0, 2.5])
    assert [step.kind for step in steps.taken] == ["numeric", "numeric"]


# ---------------------------------------------------------------------------------------------
# The command


def command(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_check_shows_each_step_by_label_and_by_tag():
    label = "prp-conditional-velocity"
    tag = next(tag for tag, name in derivations.tags().items() if name == label)
    for name in (label, tag, tag.lower()):
        done = command(name)
        assert done.exit_code == 0, done.output
        for words in (
            "does not cover",
            "1. ",
            "continuity equation",
            "Mutants",
            "checked symbolically",
        ):
            assert words in done.output, name


def test_check_of_an_exception_gives_the_reason(monkeypatch):
    reason = checking.Unchecked("thm-x", "It only says that something exists.", "m")
    monkeypatch.setitem(EXCEPTIONS, "thm-x", reason)
    done = command("thm-x")
    assert done.exit_code == 0 and reason.why in done.output


def test_check_refuses_what_it_does_not_know():
    done = command("ZZZZ")
    assert done.exit_code == 1 and "neither a tag nor a label" in done.stderr
    done = command("def-laboratory")
    assert done.exit_code == 1 and "only theorems, lemmas" in done.stderr
    done = command()
    assert done.exit_code == 1 and "--all" in done.stderr
    done = command("--chapter", "cooking")
    assert done.exit_code == 1 and "probability_paths" in done.stderr


def test_check_of_a_chapter_counts_and_writes(tmp_path, monkeypatch):
    kept = {k: c for k, c in CHECKS.items() if k == "prp-conditional-velocity"}
    monkeypatch.setattr(report, "CHECKS", kept)
    out = tmp_path / "checks.json"
    done = command("--chapter", "probability_paths", "--json", out)
    assert done.exit_code == 0, done.output
    assert "1 of 1 checks pass, 3 mutants refuted" in done.output
    record = json.loads(out.read_text(encoding="utf-8"))["checks"]["prp-conditional-velocity"]
    assert record["passed"] and record["status"] == "symbolic" and len(record["mutants"]) == 3
    assert record["path"] == "src/fromnoise/derivations/probability_paths.py"
    source = record["source"]
    assert "def conditional_velocity(" in source and source.startswith("VELOCITY = claims(")


def test_a_failing_check_fails_the_command(empty, monkeypatch):
    mutants = {"half": lambda x: x, "sign": lambda x: -2 * x}
    register(derivative, lambda x: 3 * x, mutants)
    monkeypatch.setattr(report, "CHECKS", checking.CHECKS)
    monkeypatch.setattr(report, "EXCEPTIONS", {})
    done = command("--all")
    assert done.exit_code == 1 and "0 of 1 checks pass" in done.output and "FAILED" in done.output
