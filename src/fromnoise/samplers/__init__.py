"""Samplers of the literature, one short module each: they see a field or a score, and times."""

from fromnoise.samplers.annealed_langevin import annealed_langevin, level_ratio
from fromnoise.samplers.langevin import unadjusted_langevin

__all__ = ["annealed_langevin", "level_ratio", "unadjusted_langevin"]
