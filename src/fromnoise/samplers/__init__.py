"""Samplers of the literature, one short module each: they see a field or a score, and times."""

from fromnoise.samplers._loop import NotFiniteError
from fromnoise.samplers.adams import adams
from fromnoise.samplers.ancestral import ancestral
from fromnoise.samplers.annealed_langevin import annealed_langevin, level_ratio
from fromnoise.samplers.ddim import ddim
from fromnoise.samplers.deis import deis
from fromnoise.samplers.dpm_solver import dpm_solver, dpm_solver_multistep
from fromnoise.samplers.dpmpp import dpmpp
from fromnoise.samplers.edm import edm_heun, euler_ancestral, restart
from fromnoise.samplers.flow import flow_euler, flow_heun
from fromnoise.samplers.inversion import ddim_invert, slerp
from fromnoise.samplers.langevin import unadjusted_langevin
from fromnoise.samplers.pndm import ipndm, pndm
from fromnoise.samplers.reverse_sde import predictor_corrector, reverse_sde
from fromnoise.samplers.unipc import unipc

__all__ = [
    "NotFiniteError",
    "adams",
    "ancestral",
    "annealed_langevin",
    "ddim",
    "ddim_invert",
    "deis",
    "dpm_solver",
    "dpm_solver_multistep",
    "dpmpp",
    "edm_heun",
    "euler_ancestral",
    "flow_euler",
    "flow_heun",
    "ipndm",
    "level_ratio",
    "pndm",
    "predictor_corrector",
    "restart",
    "reverse_sde",
    "slerp",
    "unadjusted_langevin",
    "unipc",
]
