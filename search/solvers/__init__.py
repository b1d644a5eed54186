"""Exact and fast solutions of the additive problem: least loss within budgets.

| module | what |
| --- | --- |
| `terms` | costs of all genomes as a sum of small tables, found by asking the cost model |
| `milp` | exact, channels coupled, several budgets at once (HiGHS) |
| `dp` | SPDY's dynamic program, exact where every variable costs on its own |
| `descent` | many relaxed problems at once in milliseconds, for local moves |
| `repair` | the true cost has the last word: no budget is exceeded |

The additive problem: every variable v at level i loses `losses[v][i]`, losses add up, costs are
`Terms`, and each of latency, energy and size may have a budget. Nothing here knows a device, a
network or torch.
"""
