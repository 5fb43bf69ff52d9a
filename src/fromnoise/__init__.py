"""From Noise: flow matching and diffusion models, derived and executed.

The package of the textbook of the same name. Import the rooms you need::

    from fromnoise import distributions, fields, paths, schedules, solvers

Time runs from noise to data everywhere: ``t = 0`` is noise, ``t = 1`` is data, and a Gaussian
path is ``X_t = alpha_t X_1 + sigma_t eps``. The root imports nothing heavy, so that
``import fromnoise`` costs nothing.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fromnoise")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
