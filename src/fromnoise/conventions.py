"""The conventions of the literature as data: clock, schedule, output and loss of each paper.

A paper's network takes a point and a *clock* (a time that may run either way, a step number, a
noise level) and returns a prediction in its own sign and scale. A `Convention` knows both sides: as
formulas, from which the book prints its tables (`app-conventions`), and as numbers, through one of
the package's schedules. Hence any prediction becomes any other (`convert_prediction`,
`prp-conversion`, `thm-reparameterization`), and a foreign network becomes a field
(`Convention.field`). The tests hold the two sides together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import sympy as sp
import torch
from torch import Tensor

from fromnoise._shapes import as_float, as_time, check_same_shape, expand
from fromnoise.discrete_schedules import DiscreteVP, cosine_betas, linear_betas
from fromnoise.fields import Field
from fromnoise.paths import GaussianPath, change_of_schedule
from fromnoise.predictions import Kind, coefficients, convert
from fromnoise.schedules import EDM as EDMLevels
from fromnoise.schedules import VE, VP, CondOT, Cosine, LinearLogSNR, NarrowCondOT, Schedule, SubVP
from fromnoise.targets import Net, Regression
from fromnoise.time_samplers import LogitNormalTimes, UniformTimes
from fromnoise.weightings import EDM as EDMWeighting
from fromnoise.weightings import PerHalfLogSNR, Uniform, Weighting

Clock = Literal["time", "reversed", "steps", "level"]
"""time: our t; reversed: 1 - t; steps: T (1 - t), noising steps done; level: sigma / alpha."""

# The clocks' letters: t is 0 at the noise, r is 0 at the data, k counts steps from the data, and
# varsigma is a noise level.
t, r, k, level = sp.symbols("t r k varsigma", positive=True)
SYMBOLS = {"time": t, "reversed": r, "steps": k, "level": level}
alpha, sigma = sp.symbols("alpha sigma", positive=True)
# Letters for what has no short formula: DDPM's product, the integral of beta.
abar, B = sp.symbols(r"\bar\alpha_k B(r)", positive=True)
s_min, s_max, g_min, g_max = sp.symbols(
    r"\sigma_{\min} \sigma_{\max} \gamma_{\min} \gamma_{\max}", real=True
)


EVEN = UniformTimes()


@dataclass(frozen=True, eq=False)
class Convention:
    """One paper's way to write a Gaussian path and to train on it.

    Attributes:
        name: of the paper or method.
        key: of the paper in the book's bibliography.
        clock: what the network is told.
        schedule: the path, in our time.
        alpha_formula: what multiplies the data, in the paper's clock.
        sigma_formula: what multiplies the noise.
        output: what the network returns; a velocity is by the paper's clock.
        symbol: the paper's symbol for it, in TeX.
        times: the law of our time that corresponds to the paper's law of its clock in training.
        times_on: the schedule on which they are meant; `schedule` unless given.
        weighting: of the squared error; None for weight 1 on the network's own.
        weight_formula: the paper's weight as it writes it, in TeX.
        constants: values of the letters in the formulas.
    """

    name: str
    key: str
    clock: Clock
    schedule: Schedule
    alpha_formula: sp.Expr
    sigma_formula: sp.Expr
    output: Kind
    symbol: str
    times: UniformTimes | LogitNormalTimes = EVEN
    weighting: Weighting | None = None
    weight_formula: str = "1"
    constants: tuple[tuple[sp.Symbol, float], ...] = ()
    times_on: Schedule | None = None

    # -- formulas ----------------------------------------------------------------------------

    @property
    def letter(self) -> sp.Symbol:
        """The symbol of the clock."""
        return SYMBOLS[self.clock]

    @property
    def coefficient_formulas(self) -> tuple[sp.Expr, sp.Expr]:
        """(a, b) with output = a D + b eps, in alpha and sigma; a velocity's in the clock."""
        one, zero = sp.Integer(1), sp.Integer(0)
        if self.output == "velocity":
            return sp.diff(self.alpha_formula, self.letter), sp.diff(
                self.sigma_formula, self.letter
            )
        return {
            "data": (one, zero),
            "noise": (zero, one),
            "score": (zero, -1 / sigma),
            "v": (-sigma, alpha),
        }[self.output]

    @property
    def denoiser_formulas(self) -> tuple[sp.Expr, sp.Expr]:
        """The factors of x and of the output in D (`prp-conversion`)."""
        a, b = self.coefficient_formulas
        scale, spread = alpha, sigma
        if self.output == "velocity":  # shorter when written out
            scale, spread = self.alpha_formula, self.sigma_formula
        determinant = scale * b - spread * a
        return sp.simplify(b / determinant), sp.simplify(-spread / determinant)

    def number(self, formula: sp.Expr, clock: float) -> float:
        """The value of one of the formulas at a value of the clock.

        The letters that stand for long formulas (DDPM's product, the integral of beta) take their
        values from the schedule.
        """
        formula = sp.sympify(formula).subs({alpha: self.alpha_formula, sigma: self.sigma_formula})
        formula = formula.subs(dict(self.constants))
        if formula.has(abar) or formula.has(B):
            scale = self.schedule.alpha(self.time_of(torch.tensor(clock, dtype=torch.float64)))
            square = scale.item() ** 2
            formula = formula.subs({abar: square, B: -math.log(square)})
        return float(formula.subs(self.letter, clock))

    # -- numbers -----------------------------------------------------------------------------

    def time_of(self, clock: float | Tensor) -> Tensor:
        """Our time at a value of the paper's clock, of its shape.

        Raises:
            ValueError: the clock is outside its range.
        """
        clock = torch.as_tensor(clock)
        clock = clock if clock.is_floating_point() else clock.to(torch.float64)
        if self.clock == "level":
            return self.schedule.inverse_half_log_snr(-torch.log(clock))
        time = {
            "time": lambda: clock,
            "reversed": lambda: 1.0 - clock,
            "steps": lambda: self.schedule.time_of_step(clock),
        }[self.clock]()
        if not bool(((time >= 0.0) & (time <= 1.0)).all()):
            raise ValueError(
                f"clock: the values of {self.name} span [{clock.min().item():.6g}, "
                f"{clock.max().item():.6g}], but they must lie in [0, 1]."
            )
        return time

    def clock_of(self, time: float | Tensor) -> Tensor:
        """The paper's clock at our time, of its shape.

        Raises:
            ValueError: the time lies outside [0, 1].
        """
        time = torch.as_tensor(time)
        if self.clock == "level":
            return torch.exp(-self.schedule.half_log_snr(time))
        if self.clock == "steps":
            return self.schedule.step_of_time(time)
        self.schedule.alpha(time)  # raises outside [0, 1]
        return time.clone() if self.clock == "time" else 1.0 - time

    @property
    def at_noise(self) -> float:
        """The clock at the noise end of the schedule."""
        return self.clock_of(torch.tensor(0.0, dtype=torch.float64)).item()

    @property
    def at_data(self) -> float:
        """The clock at the data end of the schedule."""
        return self.clock_of(torch.tensor(1.0, dtype=torch.float64)).item()

    @property
    def rate(self) -> float:
        """d(our time) / d(clock), by which our velocity becomes the paper's.

        Raises:
            ValueError: the clock is a noise level, for which no paper here has a velocity.
        """
        if self.clock == "level":
            raise ValueError(f"{self.name}: its clock is a noise level, and has no constant rate.")
        if self.clock == "steps":
            return -1.0 / self.schedule.steps
        return 1.0 if self.clock == "time" else -1.0

    def to_ours(self, output: Tensor) -> Tensor:
        """The output as ours of the same kind: a velocity in our time."""
        return output / self.rate if self.output == "velocity" else output

    def from_ours(self, prediction: Tensor) -> Tensor:
        """Our prediction of that kind as the paper's output."""
        return prediction * self.rate if self.output == "velocity" else prediction

    # -- what an engineer wants --------------------------------------------------------------

    def field(self, net: Net) -> ForeignField:
        """A network of this convention as a field on `schedule` (see `TransformedField`).

        Args:
            net: takes ``x: (batch, *event)``, at the scale of this convention, and the clock,
                ``(batch,)``, and returns ``(batch, *event)``. A step clock counts noising steps
                done: libraries whose array starts at 0 are called with ``k - 1``.
        """
        return ForeignField(net, self)

    @property
    def loss(self) -> Regression:
        """The training loss, as one of ours; its `common_weight` compares it with the others."""
        path = GaussianPath(self.times_on or self.schedule)
        return Regression(path, self.output, self.weighting, times=self.times)


@dataclass(frozen=True, eq=False)
class ForeignField(Field):
    """A network of another convention, seen as a field on that convention's schedule.

    ``TransformedField(DDPM.field(net), CondOT())`` is then a field on the straight path.

    Attributes:
        net: the network, see `Convention.field`.
        convention: what it expects and returns.
    """

    net: Net
    convention: Convention

    @property
    def schedule(self) -> Schedule:
        """The convention's schedule."""
        return self.convention.schedule

    def _as(self, target: Kind, x: Tensor, time: float | Tensor) -> Tensor:
        clock = self.convention.clock_of(as_time(time, x)).flatten().expand(len(x))
        output = self.net(x, clock.to(x.dtype))
        check_same_shape(output, x, "the network's output", "x")
        prediction = self.convention.to_ours(output)
        source, schedule = self.convention.output, self.schedule
        return convert(prediction, x, time, source=source, target=target, schedule=schedule)

    def denoise(self, x: Tensor, time: float | Tensor) -> Tensor:
        """E[X_1 | X_t = x], as far as the network has learned it."""
        return self._as("data", x, time)

    def noise(self, x: Tensor, time: float | Tensor) -> Tensor:
        """E[eps | X_t = x], as far as the network has learned it."""
        return self._as("noise", x, time)


@dataclass(frozen=True, eq=False)
class Converted:
    """A network's input and output in another convention.

    Attributes:
        output: ``(batch, *event)``, what its network would return.
        x: ``(batch, *event)``, what its network would be given.
        clock: ``()`` or ``(batch,)``, and told.
    """

    output: Tensor
    x: Tensor
    clock: Tensor


def convert_prediction(
    output: Tensor,
    x: Tensor,
    clock: float | Tensor,
    *,
    source: Convention,
    target: Convention,
) -> Converted:
    """What a network of one paper says, in the words of another, at the same noise level.

    With lambda of the source's clock: the target's clock has the same lambda, its point is c x
    (`thm-reparameterization`), and its output is a D + b eps with its own a and b
    (`prp-conversion`).

    Args:
        output: ``(batch, *event)``, of the source's network.
        x: ``(batch, *event)``, the point it was given.
        clock: a number or ``(batch,)``, what it was told.
        source: the convention of all three.
        target: the convention to go to.

    Raises:
        ValueError: shapes differ, the clock is outside its range, the target never has that noise
            level (a Score-SDE path ends before pure noise), or the output says nothing about the
            data at this clock (a noise prediction at pure noise).
    """
    check_same_shape(output, x, "output", "x")
    time = source.time_of(as_float(clock, x))
    kind, here = source.output, source.schedule
    prediction = source.to_ours(output)
    data = convert(prediction, x, time, source=kind, target="data", schedule=here)
    noise = convert(prediction, x, time, source=kind, target="noise", schedule=here)
    other, scale = change_of_schedule(time, target.schedule, here)
    a, b = (expand(c, x, "clock") for c in coefficients(target.output, other, target.schedule))
    return Converted(
        output=target.from_ours(a * data + b * noise),
        x=x / expand(scale, x, "clock"),
        clock=target.clock_of(other),
    )


# -- the papers -------------------------------------------------------------------------------

_decay = sp.exp(-B / 2)
_straight, _backwards = (t, 1 - t), (1 - r, r)
_turn = (sp.cos(sp.pi * r / 2), sp.sin(sp.pi * r / 2))
_gamma = g_min + (g_max - g_min) * r
_steps = (sp.sqrt(abar), sp.sqrt(1 - abar))

# Score-SDE cuts the data end off at 1e-5 in training, for VP and sub-VP.
_CUT = UniformTimes(t_max=1 - 1e-5)

DDPM = Convention(
    "DDPM",
    "ho2020denoising",
    "steps",
    DiscreteVP(linear_betas()),
    *_steps,
    "noise",
    r"\epsilon_\theta(x_t,t)",
    # the steps 1, ..., T with equal chances; as a law of continuous time, from the first on
    times=UniformTimes(t_max=1 - 1e-3),
)
IMPROVED_DDPM = Convention(
    "Improved DDPM, cosine",
    "nichol2021improved",
    "steps",
    DiscreteVP(cosine_betas()),
    *_steps,
    "noise",
    r"\epsilon_\theta(x_t,t)",
    times=UniformTimes(t_max=1 - 1e-3),
)
SCORE_SDE_VP = Convention(
    "Score-SDE, VP",
    "song2021scorebased",
    "reversed",
    VP(),
    _decay,
    sp.sqrt(1 - _decay**2),
    "score",
    r"s_\theta(x,t)",
    times=_CUT,
    weighting=Uniform("noise"),
    weight_formula=r"\sigma^2",
)
SCORE_SDE_SUB_VP = Convention(
    "Score-SDE, sub-VP",
    "song2021scorebased",
    "reversed",
    SubVP(),
    _decay,
    1 - _decay**2,
    "score",
    r"s_\theta(x,t)",
    times=_CUT,
    weighting=Uniform("noise"),
    weight_formula=r"\sigma^2",
)
SCORE_SDE_VE = Convention(
    "Score-SDE, VE",
    "song2021scorebased",
    "reversed",
    VE(),
    sp.Integer(1),
    s_min * (s_max / s_min) ** r,
    "score",
    r"s_\theta(x,t)",
    weighting=Uniform("noise"),
    weight_formula=r"\sigma^2",
    constants=((s_min, 0.01), (s_max, 50.0)),
)
VDM = Convention(
    "VDM, linear",
    "kingma2021variational",
    "reversed",
    LinearLogSNR(),
    1 / sp.sqrt(1 + sp.exp(_gamma)),
    1 / sp.sqrt(1 + sp.exp(-_gamma)),
    "noise",
    r"\hat\epsilon_\theta(z_t,t)",
    # half the slope of gamma = -2 lambda, which is the slope of lambda: W = 1
    weighting=PerHalfLogSNR(Uniform("noise")),
    weight_formula=r"\tfrac12\gamma'(r)",
    constants=((g_min, -13.3), (g_max, 5.0)),
)
EDM = Convention(
    "EDM",
    "karras2022elucidating",
    "level",
    EDMLevels(),
    sp.Integer(1),
    level,
    "data",
    r"D_\theta(x;\sigma)",
    weighting=EDMWeighting(0.5),
    weight_formula=r"(\varsigma^2+\sigma_d^2)/(\varsigma\sigma_d)^2",
    # log varsigma = -lambda is normal with mean -1.2: simple on the straight path, where lambda is
    # the logit of the time
    times=LogitNormalTimes(1.2, 1.2),
    times_on=CondOT(),
)
FLOW_MATCHING = Convention(
    "Flow Matching",
    "lipman2023flow",
    "time",
    NarrowCondOT(0.01),
    t,
    1 + (s_min - 1) * t,
    "velocity",
    r"v_t(x;\theta)",
    constants=((s_min, 0.01),),
)
RECTIFIED_FLOW = Convention(
    "Rectified Flow", "liu2023flow", "time", CondOT(), *_straight, "velocity", r"v_\theta(X_t,t)"
)
INTERPOLANTS = Convention(
    "Interpolants, linear",
    "albergo2023stochastic",
    "time",
    CondOT(),
    *_straight,
    "velocity",
    r"b(t,x)",
)
SIT_LINEAR = Convention(
    "SiT, linear", "ma2024sit", "reversed", CondOT(), *_backwards, "velocity", r"v_\theta(x,t)"
)
SIT_GVP = Convention(
    "SiT, GVP", "ma2024sit", "reversed", Cosine(), *_turn, "velocity", r"v_\theta(x,t)"
)
STABLE_DIFFUSION_3 = Convention(
    "Stable Diffusion 3",
    "esser2024scaling",
    "reversed",
    CondOT(),
    *_backwards,
    "velocity",
    r"v_\Theta(z_t,t)",
    times=LogitNormalTimes(),
)
MIT = Convention(
    "MIT 6.S184, CondOT",
    "holderrieth2025introduction",
    "time",
    CondOT(),
    *_straight,
    "velocity",
    r"u_t^\theta(x)",
)

ALL: tuple[Convention, ...] = (
    DDPM, IMPROVED_DDPM, SCORE_SDE_VP, SCORE_SDE_SUB_VP, SCORE_SDE_VE, VDM, EDM, FLOW_MATCHING,
    RECTIFIED_FLOW, INTERPOLANTS, SIT_LINEAR, SIT_GVP, STABLE_DIFFUSION_3, MIT,
)  # fmt: skip


def convention(name: str) -> Convention:
    """The convention with this name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    for one in ALL:
        if one.name == name:
            return one
    raise ValueError(f"name={name!r} is none of {', '.join(repr(c.name) for c in ALL)}.")
