"""Runs checks and says what came out, to a reader or to the build."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fromnoise import derivations
from fromnoise._files import replacing
from fromnoise.derivations.checking import CHECKS, EXCEPTIONS, Check, Outcome, Step, run

Say = Callable[[str], Any]


def one(label: str, say: Say) -> bool:
    """Run one check and show each step and each mutant; returns whether it passed."""
    derivations.load()
    if label in EXCEPTIONS:
        say(f"{label}: no machine check.\n{EXCEPTIONS[label].why}")
        return True
    if label not in CHECKS:
        raise ValueError(
            f"label = {label!r} has no machine check: only theorems, lemmas, propositions and "
            "corollaries have one. `fromnoise check --all` lists them."
        )
    check = CHECKS[label]
    _, first, _ = check.source
    say(f"{label}: {inspect.getdoc(check.test)}")
    say(f"  covers: {check.covers}\n  does not cover: {check.omits}")
    say(f"  source: {check.module}.{check.test.__name__}, line {first}\n")
    numbers = iter(range(1, 10_000))

    def show(step: Step) -> None:
        mark = " " if step.kind == "note" else f"{next(numbers)}."
        say(f"  {mark} {step.text}" + (f"\n       {step.result}" if step.result else ""))

    outcome = run(check, echo=show)
    if not outcome.passed:
        say(f"\nFAILED: {outcome.failure}")
        return False
    say("\n  Mutants, each refuted by the same steps:")
    for name, why in outcome.mutants.items():
        say(f"   - {name}\n       {why}")
    say(f"\n{verdict(outcome)}, {len(outcome.mutants)} mutants refuted, {outcome.seconds:.1f} s.")
    return True


def many(chapter: str | None, say: Say, target: Path | None = None) -> bool:
    """Run all checks, or those of a chapter; a line for each, and the count.

    Args:
        chapter: the name of a module of `fromnoise.derivations`; None for all.
        say: takes each line.
        target: where to write everything as JSON, besides.

    Raises:
        ValueError: there is no such chapter.
    """
    derivations.load()
    known = derivations.modules()
    if chapter is not None and chapter not in known:
        raise ValueError(f"chapter = {chapter!r} has no checks; those that have: {known}.")

    def within(module: str) -> bool:
        return chapter is None or module.rpartition(".")[2] == chapter

    chosen = [check for check in CHECKS.values() if within(check.module)]
    excused = [entry for entry in EXCEPTIONS.values() if within(entry.module)]
    record: dict[str, Any] = {"checks": {}, "exceptions": {e.label: e.why for e in excused}}
    mutants = failed = 0
    for check in chosen:
        outcome = run(check)
        mutants += len(outcome.mutants)
        failed += not outcome.passed
        say(f"{check.label}: {verdict(outcome)}, {len(outcome.mutants)} mutants refuted")
        record["checks"][check.label] = _record(check, outcome)
    for entry in excused:
        say(f"{entry.label}: proof only. {entry.why}")
    say(
        f"{len(chosen) - failed} of {len(chosen)} checks pass, {mutants} mutants refuted, "
        f"{len(excused)} results with a proof only."
    )
    if target is not None:
        with replacing(target) as part:
            part.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")
    return not failed


def verdict(outcome: Outcome) -> str:
    """What the badge says."""
    if not outcome.passed:
        return f"FAILED ({outcome.failure})"
    if outcome.status == "symbolic":
        return "checked symbolically"
    if not outcome.tolerance:
        return "checked numerically"
    return f"checked numerically to {outcome.tolerance:.0e}"


def _source(path: Path, name: str) -> str:
    """The source of a check, after that of its claim where this has a name of its own."""
    text = path.read_text(encoding="utf-8")
    body = ast.parse(text).body
    function = next(n for n in body if isinstance(n, ast.FunctionDef) and n.name == name)
    claims = {
        keyword.value.id
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call)
        for keyword in decorator.keywords
        if keyword.arg == "claim" and isinstance(keyword.value, ast.Name)
    }
    parts = []
    for node in body:
        names = {getattr(target, "id", "") for target in getattr(node, "targets", ())}
        if claims & (names | {getattr(node, "name", "")}) or node is function:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            parts.append("\n".join(text.splitlines()[first - 1 : node.end_lineno]))
    return "\n\n\n".join(parts)


def _record(check: Check, outcome: Outcome) -> dict[str, Any]:
    """Everything that the book's pages show of a check."""
    path, first, last = check.source
    root = Path(__file__).resolve().parents[3]
    return {
        **asdict(outcome),
        "covers": check.covers,
        "omits": check.omits,
        "path": path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name,
        "first": first,
        "last": last,
        "source": _source(path, check.test.__name__),
        "with": f"SymPy {version('sympy')}, PyTorch {version('torch')}",
    }
