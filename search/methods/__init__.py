"""Search methods, one a module: each a function of an `Explorer`, named by `--method`.

| method | what | source |
| --- | --- | --- |
| `paretrim` | exact seeds, then NSGA-II and local moves screened by a surrogate | this project |
| `nsga2` | NSGA-II from a sparse random start | Deb et al. 2002 |
| `milp`, `dp` | sensitivities, one exact solution a budget | arXiv 2006.10518, 2201.13096 |
| `spdy` | coefficient search over the dynamic program | arXiv 2201.13096 |
| `eagleeye` | random candidates within the budget, the best is kept | arXiv 2007.02491 |
| `netadapt` | greedy, the reduction that loses least | arXiv 1804.03230 |
| `hawq` | bits by Hessian trace and integer program | arXiv 1911.03852, 2011.10680 |
| `halp` | channels by Taylor importance and knapsack | arXiv 2110.10811 |
| `error-limit` | bits by a limit on the activation scale | Infrared and Laser Eng. 51(4) 20220166 |
| `random`, `uniform` | what must be beaten | |

The published methods know one target: they are run for each budget at each input size in turn, and
share the evaluations. All score candidates with the same evaluation code, restored in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from search.explorer import Explorer
from search.methods.additive import dp, milp
from search.methods.eagleeye import eagleeye
from search.methods.error_limit import error_limit
from search.methods.genetic import nsga2
from search.methods.halp import halp
from search.methods.hawq import hawq
from search.methods.netadapt import netadapt
from search.methods.paretrim import paretrim
from search.methods.plain import random, uniform
from search.methods.spdy import spdy

METHODS: Mapping[str, Callable[[Explorer], None]] = {
    "paretrim": paretrim,
    "nsga2": nsga2,
    "milp": milp,
    "dp": dp,
    "spdy": spdy,
    "eagleeye": eagleeye,
    "netadapt": netadapt,
    "hawq": hawq,
    "halp": halp,
    "error-limit": error_limit,
    "random": random,
    "uniform": uniform,
}
"""Every method; it returns when it has nothing more to propose."""
