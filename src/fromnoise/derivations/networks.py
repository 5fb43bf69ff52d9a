"""Checks of the chapter on networks and training craft."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise, permutations

import sympy
import torch
from sympy import Matrix, Rational, cos, diff, exp, sin, solve, sqrt, symbols

from fromnoise.derivations.checking import check, claims
from fromnoise.networks import DiT, UNet
from fromnoise.networks.cost import saved_bytes, unet_flops

# -- attention ------------------------------------------------------------------------------------


@check(
    "prp-attention-scale",
    claim=lambda d: d,
    mutants={
        "no growth with the width": lambda d: 1,
        "the square": lambda d: d**2,
        "means that are not zero": lambda d: d + d**2,
    },
    covers="symbols for the moments of q and k, up to four components",
    omits="more components, where the sum of uncorrelated terms is the same",
)
def attention_scale(steps, claim):
    """Expand (q . k)^2 and replace each monomial by its moment."""
    for d in (1, 2, 3, 4):
        q, k = symbols(f"q:{d}"), symbols(f"k:{d}")
        dot = sympy.Poly(sum(a * b for a, b in zip(q, k, strict=True)) ** 2, *q, *k)
        # independent components of mean 0, variance 1: only squares survive
        mean = sum(c for powers, c in dot.terms() if all(p in (0, 2) for p in powers))
        steps.equal(f"second moment of q . k, d = {d}", mean, claim(d))


def _attention(q, k, v):
    scores = (q * k.T).applyfunc(exp)
    return Matrix(q.rows, v.cols, lambda i, j: (scores[i, :] * v)[j] / sum(scores[i, :]))


def _causal(q, k, v):
    scores = (q * k.T).applyfunc(exp)
    return Matrix(
        q.rows,
        v.cols,
        lambda i, j: (scores[i, : i + 1] * v[: i + 1, :])[j] / sum(scores[i, : i + 1]),
    )


@check(
    "prp-attention-equivariance",
    claim=_attention,
    mutants={
        "each token looks at itself and those before": _causal,
        "a place added to the keys": lambda q, k, v: _attention(
            q, k + Matrix(k.rows, k.cols, lambda i, j: i), v
        ),
    },
    covers="three tokens of width two, every permutation, exact numbers",
    omits="more tokens: the sum over tokens has no order",
)
def attention_equivariance(steps, claim):
    """Permute the tokens before, or after."""
    x = Matrix([[1, 2], [0, -1], [3, 1]]) / 2
    wq, wk, wv = Matrix([[1, 0], [1, 1]]), Matrix([[0, 1], [2, 1]]), Matrix([[1, 2], [3, -1]])
    for order in permutations(range(3)):
        p = Matrix(3, 3, lambda i, j, order=order: int(order[i] == j))
        before = claim(p * x * wq, p * x * wk, p * x * wv)
        gap = (before - p * claim(x * wq, x * wk, x * wv)).applyfunc(sympy.simplify)
        steps.equal(f"order {order}", gap, sympy.zeros(3, 2))


def _turn(angle):
    return Matrix([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])


@check(
    "prp-rotary",
    claim=claims(query=_turn, key=_turn),
    mutants={
        "keys turned the other way": claims(query=_turn, key=lambda a: _turn(-a)),
        "queries alone": claims(query=_turn, key=lambda a: sympy.eye(2)),
        "places as factors": claims(
            query=lambda a: a * sympy.eye(2), key=lambda a: a * sympy.eye(2)
        ),
    },
    covers="one pair of features with symbols for places, frequency, query and key; a head is a "
    "sum of such pairs, half of them turned by the row and half by the column",
    omits="the sum over pairs of features, each as the one here",
)
def rotary(steps, claim):
    """The product depends on the difference of places; lengths stay."""
    i, j, c, w = symbols("i j c omega", real=True)
    q, k = Matrix(symbols("q_1 q_2", real=True)), Matrix(symbols("k_1 k_2", real=True))

    def product(first, second):
        return ((claim.query(w * first) * q).T * (claim.key(w * second) * k))[0]

    moved = sympy.expand(sympy.expand_trig(product(i + c, j + c) - product(i, j)))
    steps.equal("both moved by c", sympy.simplify(moved), 0)
    turned = (claim.query(w * i) * q).T * (claim.query(w * i) * q)
    steps.equal("length", sympy.simplify(turned[0] - (q.T * q)[0]), 0)


# -- the start ------------------------------------------------------------------------------------

ENDS = {"last.weight", "last.bias"}


def _awake(step):
    if step == 0:
        return ENDS
    if step == 1:
        return ENDS | {"modulate", "gates", "first"}
    return ENDS | {"modulate", "gates", "first", "inside", "scales", "time"}


@check(
    "prp-adaln-zero",
    claim=claims(output=lambda: 0.0, block=lambda h: h, moved=_awake),
    mutants={
        "blocks return 0 at first": claims(
            output=lambda: 0.0, block=torch.zeros_like, moved=_awake
        ),
        "everything learns at once": claims(
            output=lambda: 0.0, block=lambda h: h, moved=lambda step: _awake(2)
        ),
        "gates learn in the first step": claims(
            output=lambda: 0.0,
            block=lambda h: h,
            moved=lambda step: _awake(step) | {"gates"},
        ),
        "the inside of blocks learns in the second step": claims(
            output=lambda: 0.0,
            block=lambda h: h,
            moved=lambda step: _awake(step) | ({"inside"} if step else set()),
        ),
    },
    covers="the network of the package, two blocks, double precision: output and blocks at the "
    "start, and which gradients are exactly zero at the first three steps of gradient descent",
    omits="other sizes: the factors that vanish are the same; Adam, which a test runs",
)
def adaln_zero(steps, claim):
    """Gradients by automatic differentiation, grouped as in the proof."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DiT(size=4, patch=2, dim=8, depth=2, heads=2).double()
    x, y = torch.randn(2, 3, 1, 4, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    largest = net(x, t).abs().max().item()
    steps.close("output at the start", largest, claim.output(), tolerance=0, why="exact zeros")
    h, e = (torch.randn(3, *n, generator=generator).double() for n in ((4, 8), (8,)))
    for block in net.blocks:
        steps.true("a block at the start", torch.equal(block(h, e, None, None), claim.block(h)))
    for step in range(3):
        net.zero_grad()
        (net(x, t) - y).square().mean().backward()
        found = set()
        for name, p in net.named_parameters():
            for part, rows in _groups(name, p):
                if p.grad[rows].abs().max() > 0:
                    found.add(part)
        steps.true(f"what moves in step {step + 1}", found == claim.moved(step))
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.1 * p.grad


def _groups(name, p):
    """The group of the proof that a parameter, or each part of its rows, belongs to."""
    if name in ENDS:
        return [(name, slice(None))]
    if name.startswith("first"):
        return [("first", slice(None))]
    if name.startswith("time"):
        return [("time", slice(None))]
    if name.startswith("modulate"):
        return [("modulate", slice(None))]
    if ".modulate." in name:
        d = p.shape[0] // 6  # scale, shift, gate of the attention, and of the MLP
        return [("gates" if k in (2, 5) else "scales", slice(k * d, (k + 1) * d)) for k in range(6)]
    return [("inside", slice(None))]


# -- counting -------------------------------------------------------------------------------------


@check(
    "prp-dit-flops",
    claim=lambda n, d, m, L: L * (8 * n * d**2 + 4 * n * m * d**2 + 4 * n**2 * d + 12 * d**2),
    mutants={
        "attention without its second product": lambda n, d, m, L: (
            L * (8 * n * d**2 + 4 * n * m * d**2 + 2 * n**2 * d + 12 * d**2)
        ),
        "an MLP of one layer": lambda n, d, m, L: (
            L * (8 * n * d**2 + 2 * n * m * d**2 + 4 * n**2 * d + 12 * d**2)
        ),
        "three vectors for each block": lambda n, d, m, L: (
            L * (8 * n * d**2 + 4 * n * m * d**2 + 4 * n**2 * d + 6 * d**2)
        ),
    },
    covers="the sum over all matrix products of a block, symbols for all sizes",
    omits="the ends and the embedding of the time, which `dit_flops` adds; norms, sums",
)
def dit_flops(steps, claim):
    """Each product of a x b by b x c is 2 a b c operations."""
    n, d, m, depth, heads = symbols("n d m L h", positive=True)
    products = [
        (n, d, 3 * d, 1),  # queries, keys, values
        (n, d / heads, n, heads),  # scores
        (n, n, d / heads, heads),  # their use
        (n, d, d, 1),  # leave
        (n, d, m * d, 1),
        (n, m * d, d, 1),
        (1, d, 6 * d, 1),  # modulation
    ]
    total = depth * sum(2 * a * b * c * times for a, b, c, times in products)
    steps.equal("all blocks", sympy.expand(total - claim(n, d, m, depth)), 0)


@check(
    "prp-unet-flops",
    claim=claims(twins=lambda e: 94 * e, between=lambda e: Rational(45, 2) * e, middle=44),
    mutants={
        "the way up like the way down": claims(
            twins=lambda e: 72 * e, between=lambda e: Rational(45, 2) * e, middle=44
        ),
        "nothing projected around a block": claims(
            twins=lambda e: 90 * e, between=lambda e: Rational(45, 2) * e, middle=44
        ),
        "both ways between levels at the coarse one": claims(
            twins=lambda e: 94 * e, between=lambda e: 9 * e, middle=44
        ),
        "no attention in the middle": claims(
            twins=lambda e: 94 * e, between=lambda e: Rational(45, 2) * e, middle=36
        ),
    },
    covers="the sum over all layers with symbols for widths, pixels and all sizes; one, two and "
    "three levels; and the network of the package, counted layer by layer",
    omits="norms, activation functions, sums and copies",
)
def unet_flops_closed(steps, claim):
    """A convolution costs 2 x outputs x inputs x area for each pixel of its result."""
    blocks, e, f, c, o, p, pixels = symbols("B e f c o p P", positive=True)
    for levels in (1, 2, 3):
        w = symbols(f"w_:{levels}", positive=True)
        at = [pixels / 4**level for level in range(levels)]
        layers = [18 * c * p**2 * w[0] * at[0], 18 * w[0] * o * p**2 * at[0]]
        layers += [2 * f * e, 2 * e * e]
        for width, n in zip(w, at, strict=True):
            down = 18 * width * width * n + 4 * e * width + 18 * width * width * n
            up = 18 * 2 * width * width * n + 4 * e * width + 18 * width * width * n
            layers.append(blocks * (down + up + 2 * 2 * width * width * n))  # and the skip
        for k in range(levels - 1):
            layers += [18 * w[k] * w[k + 1] * at[k + 1], 18 * w[k + 1] * w[k] * at[k]]
        last, n = w[-1], at[-1]
        layers.append(36 * last**2 * n + 4 * e * last)  # the block in the middle
        layers += [6 * last**2 * n, 2 * last**2 * n, 4 * n**2 * last]  # attention
        found = closed_form(claim, w, pixels, blocks, e, f, (c + o) * p**2)
        steps.equal(f"{levels} levels", sympy.expand(sum(layers) - found), 0)
    net = UNet(channels=3, widths=(16, 24, 40), blocks=2, patch=2, embedding=20, groups=4, heads=4)
    found = closed_form(claim, (16, 24, 40), 16 * 16, 2, 20, net.time.frequencies, 6 * 4)
    steps.equal("the package's network", sympy.Integer(unet_flops(net, 32, 32)), found)


def closed_form(claim, w, pixels, blocks, e, f, ends):
    """`eq-unet-flops`."""
    at = [sympy.sympify(pixels) / 4**level for level in range(len(w))]
    levels = sum(
        blocks * (claim.twins(width**2 * n) + 8 * e * width) for width, n in zip(w, at, strict=True)
    )
    between = sum(claim.between(w[k] * w[k + 1] * at[k]) for k in range(len(w) - 1))
    last, n = w[-1], at[-1]
    middle = claim.middle * last**2 * n + 4 * n**2 * last + 4 * e * last
    return levels + between + middle + 18 * ends * w[0] * at[0] + 2 * f * e + 2 * e**2


@check(
    "prp-dit-memory",
    claim=lambda n, d, m, h: (12 + 2 * m) * n * d + (h + 4) * n + 8 * d,
    mutants={
        "the scores of attention kept": lambda n, d, m, h: (
            (12 + 2 * m) * n * d + (h + 4) * n + 8 * d + h * n**2
        ),
        "the MLP kept once": lambda n, d, m, h: (12 + m) * n * d + (h + 4) * n + 8 * d,
        "norms without their statistics": lambda n, d, m, h: (12 + 2 * m) * n * d + h * n + 8 * d,
    },
    covers="the tensors that autograd keeps in the package's blocks, four sizes, double precision, "
    "CPU; with and without computing again",
    omits="half precision; kernels of other machines that keep other things",
)
def dit_memory(steps, claim):
    """Differences between depths leave one block; storages counted by hooks of autograd."""
    for n, d, m, h in ((4, 8, 4, 2), (16, 8, 4, 2), (16, 24, 2, 3), (9, 16, 4, 4)):
        side = math.isqrt(n)

        def kept(depth, remember, size=(side, d, m, h)):
            side, d, m, h = size
            options = {"size": 2 * side, "patch": 2, "dim": d, "depth": depth, "heads": h}
            net = DiT(**options, ratio=m, remember=remember).double()
            x = torch.zeros(2, 1, 2 * side, 2 * side, dtype=torch.float64)
            return saved_bytes(net, lambda: net(x, torch.zeros(2).double())) // 16

        block = kept(3, True) - kept(2, True)
        steps.equal(f"a block, {(n, d, m, h)}", sympy.Integer(block), claim(n, d, m, h))
        again = kept(3, False) - kept(2, False)
        steps.equal(f"computed again, {(n, d, m, h)}", sympy.Integer(again), n * d)


@check(
    "prp-backward-flops",
    claim=claims(inputs=lambda x, w, g: g * w.T, weights=lambda x, w, g: x.T * g, ratio=lambda: 2),
    mutants={
        "as much as forward": claims(
            inputs=lambda x, w, g: g * w.T, weights=lambda x, w, g: x.T * g, ratio=lambda: 1
        ),
        "the weight not transposed": claims(
            inputs=lambda x, w, g: g * w, weights=lambda x, w, g: x.T * g, ratio=lambda: 2
        ),
    },
    covers="2 x 2 matrices of symbols for the formulas; the count for every size",
    omits="convolutions (matrix products of unfolded images) and attention's two products",
)
def backward_flops(steps, claim):
    """Differentiate <G, X W> entry by entry, then count."""
    x, w, g = (Matrix(2, 2, symbols(f"{name}_:4")) for name in "xwg")
    loss = sum((x * w).multiply_elementwise(g))
    for name, of, found in (
        ("inputs", x, claim.inputs(x, w, g)),
        ("weights", w, claim.weights(x, w, g)),
    ):
        gradient = of.applyfunc(lambda entry: diff(loss, entry))
        steps.equal(f"gradient of the {name}", (gradient - found).expand(), sympy.zeros(2, 2))
    n, d, e = symbols("n d e", positive=True)
    forward, back = 2 * n * d * e, 2 * n * e * d + 2 * d * n * e
    steps.equal("operations, backward over forward", sympy.simplify(back / forward), claim.ratio())


@check(
    "prp-checkpointing",
    claim=claims(
        held=lambda L, a, b, k: L * b / k + k * a,
        best=lambda L, a, b: sqrt(L * b / a),
        least=lambda L, a, b: 2 * sqrt(L * a * b),
        passes=4,
    ),
    mutants={
        "a segment of one block": claims(
            held=lambda L, a, b, k: L * b / k + k * a,
            best=lambda L, a, b: sympy.Integer(1),
            least=lambda L, a, b: L * b + a,
            passes=4,
        ),
        "the root of the depth whatever a block holds": claims(
            held=lambda L, a, b, k: L * b / k + k * a,
            best=lambda L, a, b: sqrt(L),
            least=lambda L, a, b: sqrt(L) * (a + b),
            passes=4,
        ),
        "half of it": claims(
            held=lambda L, a, b, k: L * b / k + k * a,
            best=lambda L, a, b: sqrt(L * b / a),
            least=lambda L, a, b: sqrt(L * a * b),
            passes=4,
        ),
        "one block of the segment at a time": claims(
            held=lambda L, a, b, k: L * b / k + a,
            best=lambda L, a, b: L,
            least=lambda L, a, b: a + b,
            passes=4,
        ),
        "computing again for free": claims(
            held=lambda L, a, b, k: L * b / k + k * a,
            best=lambda L, a, b: sqrt(L * b / a),
            least=lambda L, a, b: 2 * sqrt(L * a * b),
            passes=3,
        ),
    },
    covers="twelve blocks worked through in segments of every length that divides them; the "
    "minimum over segment lengths as a real number, symbols for depth and sizes",
    omits="rounding the length to an integer that divides the depth",
)
def checkpointing(steps, claim):
    """Work through twelve blocks with a ledger, then minimize what it says."""
    depth, a, b, k = symbols("L a b k", positive=True)
    for length in (1, 2, 3, 4, 6, 12):
        most, passes = _ledger(12, length, Fraction(7), Fraction(2))
        steps.true(
            f"segments of {length}: the most held",
            most == claim.held(Fraction(12), Fraction(7), Fraction(2), Fraction(length)),
        )
        steps.true(f"segments of {length}: operations", passes == claim.passes * 12)
    held = claim.held(depth, a, b, k)
    (best,) = solve(diff(held, k), k)
    steps.equal("the best segment", sympy.simplify(best - claim.best(depth, a, b)), 0)
    steps.equal("bytes held", sympy.simplify(held.subs(k, best) - claim.least(depth, a, b)), 0)
    steps.true("a minimum", diff(held, k, 2).subs(k, best).is_positive)


def _ledger(depth, length, a, b):
    """The most bytes held, and the passes through one block (a backward pass is two)."""
    inputs, kept, most, passes = [], [], Fraction(0), 0
    for block in range(depth):
        if block % length == 0:
            inputs.append(b)
        passes += 1
    while inputs:
        for _ in range(length):  # again, now keeping what the backward pass needs
            kept.append(a)
            passes += 1
            most = max(most, sum(inputs) + sum(kept))
        while kept:
            kept.pop()
            passes += 2
        inputs.pop()
    return most, passes


# -- time -----------------------------------------------------------------------------------------


@check(
    "prp-intensity",
    claim=claims(
        ratio=lambda n, d, s: 2 * n * d**2 / (s * (2 * n * d + d**2)),
        many=lambda d, s: d / s,
        one=lambda s: 2 / s,
        square=lambda d, s: 2 * d / (3 * s),
    ),
    mutants={
        "weights for free": claims(
            ratio=lambda n, d, s: d / s,
            many=lambda d, s: d / s,
            one=lambda s: sympy.oo,
            square=lambda d, s: d / s,
        ),
        "the result for free": claims(
            ratio=lambda n, d, s: 2 * n * d**2 / (s * (n * d + d**2)),
            many=lambda d, s: 2 * d / s,
            one=lambda s: 2 / s,
            square=lambda d, s: d / s,
        ),
        "the other limit of many rows": claims(
            ratio=lambda n, d, s: 2 * n * d**2 / (s * (2 * n * d + d**2)),
            many=lambda d, s: 2 * d / s,
            one=lambda s: 2 / s,
            square=lambda d, s: 2 * d / (3 * s),
        ),
    },
    covers="n rows times a d x d matrix, numbers of s bytes: all n, d by symbols, and both limits",
    omits="rectangular weights; caches, which only lower the bytes",
)
def intensity(steps, claim):
    """Operations over bytes."""
    n, d, s = symbols("n d s", positive=True)
    rows, weights, results = (n, d), (d, d), (n, d)
    moved = s * sum(a * b for a, b in (rows, weights, results))
    ratio = results[0] * results[1] * 2 * weights[0] / moved  # d products and sums for each result
    steps.equal("operations for each byte", sympy.simplify(ratio - claim.ratio(n, d, s)), 0)
    many = sympy.limit(ratio, n, sympy.oo)
    steps.equal("many rows", sympy.simplify(many - claim.many(d, s)), 0)
    one = sympy.limit(ratio.subs(n, 1), d, sympy.oo)
    steps.equal("one row, wide", sympy.simplify(one / claim.one(s)), 1)
    square = ratio.subs(n, d)
    steps.equal("square", sympy.simplify(square - claim.square(d, s)), 0)


@check(
    "prp-roofline",
    claim=claims(
        time=lambda f, m, peak, bandwidth: max(f / peak, m / bandwidth),
        rate=lambda f, m, peak, bandwidth: min(peak, f / m * bandwidth),
        ridge=lambda peak, bandwidth: peak / bandwidth,
    ),
    mutants={
        "the sum of both": claims(
            time=lambda f, m, peak, bandwidth: f / peak + m / bandwidth,
            rate=lambda f, m, peak, bandwidth: min(peak, f / m * bandwidth),
            ridge=lambda peak, bandwidth: peak / bandwidth,
        ),
        "the faster of both": claims(
            time=lambda f, m, peak, bandwidth: min(f / peak, m / bandwidth),
            rate=lambda f, m, peak, bandwidth: max(peak, f / m * bandwidth),
            ridge=lambda peak, bandwidth: peak / bandwidth,
        ),
        "bytes per operation": claims(
            time=lambda f, m, peak, bandwidth: max(f / peak, m / bandwidth),
            rate=lambda f, m, peak, bandwidth: min(peak, m / f * bandwidth),
            ridge=lambda peak, bandwidth: bandwidth / peak,
        ),
    },
    covers="exact fractions: four machines and nine pieces of work, alone and in pairs; a clock "
    "that does what it can of both kinds in each instant",
    omits="other machines and pieces; that real ones do not overlap operations and moves as well",
)
def roofline_bound(steps, claim):
    """A machine that overlaps perfectly attains the bound, and none is faster."""
    machines = [tuple(map(Fraction, pair)) for pair in ((1, 1), (7, 2), (2, 5), (100, 3))]
    work = [(Fraction(f), Fraction(m)) for f in (1, 6, 50) for m in (1, 4, 90)]
    for peak, bandwidth in machines:
        single, rates, sums = True, True, True
        for f, m in work:
            # the first time at which both the operations and the moves can be over
            first = min(
                t for t in (f / peak, m / bandwidth) if t * peak >= f and t * bandwidth >= m
            )
            single &= claim.time(f, m, peak, bandwidth) == first
            rates &= claim.rate(f, m, peak, bandwidth) == f / first
            below = f / m < claim.ridge(peak, bandwidth)
            rates &= below == (m / bandwidth > f / peak)
            for g, k in work:
                apart = claim.time(f, m, peak, bandwidth) + claim.time(g, k, peak, bandwidth)
                sums &= apart >= claim.time(f + g, m + k, peak, bandwidth)
        name = f"peak {peak}, bandwidth {bandwidth}"
        steps.true(f"{name}: the least time", single)
        steps.true(f"{name}: the rate, and the ridge", rates)
        steps.true(f"{name}: one after the other", sums)


# -- training -------------------------------------------------------------------------------------


@check(
    "prp-adam-first-step",
    claim=lambda g, lr, eps: -lr * g / (sympy.Abs(g) + eps),
    mutants={
        "proportional to the gradient": lambda g, lr, eps: -lr * g,
        "without the correction of the bias": lambda g, lr, eps: (
            -lr * Rational(1, 10) * g / (sqrt(Rational(1, 1000)) * sympy.Abs(g) + eps)
        ),
    },
    covers="both decays, the gradient, learning rate and epsilon as symbols",
    omits="weight decay, which is added apart",
)
def adam_first_step(steps, claim):
    """The averages after one step, corrected."""
    b1, b2, lr, eps = symbols("beta_1 beta_2 eta epsilon", positive=True)
    g = symbols("g", real=True)
    m, v = (1 - b1) * g / (1 - b1), (1 - b2) * g**2 / (1 - b2)
    step = -lr * m / (sqrt(sympy.simplify(v)) + eps)
    steps.equal("the first step", sympy.simplify(step - claim(g, lr, eps)), 0)


@check(
    "prp-low-precision",
    claim=claims(lost=lambda bits: Fraction(1, 2 ** (bits + 1)), sharp=True),
    mutants={
        "twice as much is lost": claims(lost=lambda bits: Fraction(1, 2**bits), sharp=True),
        "half as much, and no more": claims(
            lost=lambda bits: Fraction(1, 2 ** (bits + 2)), sharp=True
        ),
    },
    covers="every bfloat16 number (8 bits) and float16 number (11 bits) in [1, 4), changes up and "
    "down, rounded to nearest by the machine from exact sums in double precision",
    omits="other binades, which are copies by powers of two, and numbers below the normal range",
)
def low_precision(steps, claim):
    """Changes just below the bound vanish everywhere; just above it not everywhere."""
    for dtype, bits in ((torch.bfloat16, 8), (torch.float16, 11)):
        count = 2 ** (bits - 1)
        w = torch.cat([1 + torch.arange(count) / count, 2 + 2 * torch.arange(count) / count])
        w = w.double()
        bound = float(claim.lost(bits))
        for sign in (1, -1):
            below = (w + sign * bound * w * (1 - 2.0**-12)).to(dtype).double()
            steps.true(f"{dtype}: below the bound nothing moves", bool((below == w).all()))
        above = (w - bound * w * (1 + 2.0**-12)).to(dtype).double()
        steps.true(f"{dtype}: above it something does", bool((above != w).any()) == claim.sharp)


@check(
    "prp-accumulation",
    claim=lambda sizes: [Rational(n, sum(sizes)) for n in sizes],
    mutants={
        "the mean of means": lambda sizes: [Rational(1, len(sizes))] * len(sizes),
        "a sum of means": lambda sizes: [1 for _ in sizes],
        "the last part alone": lambda sizes: [0] * (len(sizes) - 1) + [1],
    },
    covers="gradients as symbols; one, two, three and six equal parts of twelve data, where the "
    "weights are equal, and three divisions into unequal parts",
    omits="clipping, which comes after the sum and is the same",
)
def accumulation(steps, claim):
    """The mean of a batch from the means of its parts."""
    g = symbols("g:12")
    whole = sum(g) / 12
    equal = [[12 // parts] * parts for parts in (1, 2, 3, 6)]
    for sizes in [*equal, [4, 8], [9, 3], [1, 2, 4, 5]]:
        ends = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
        means = [sum(g[a:b]) / (b - a) for a, b in pairwise(ends)]
        weights = claim(sizes)
        total = sum(c * m for c, m in zip(weights, means, strict=True))
        steps.equal(f"parts of {sizes}", sympy.expand(total - whole), 0)
        if sizes in equal:
            steps.true("equal weights", all(w == Rational(1, len(sizes)) for w in weights))
