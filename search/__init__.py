"""Which candidate next? The search itself, from the command line to the files it leaves.

A run reads from top to bottom:

| module | question |
| --- | --- |
| `cli`, `settings` | what was asked? |
| `run` | the whole way once |
| `problem` | what is to be solved: model, data, space, target, budgets |
| `feasibility` | can the budgets be met, and what would help if not? |
| `study`, `explorer` | the loop: explore with a method, promote, verify |
| `methods` | which candidates next? One module a method |
| `sensitivity`, `pricing`, `solvers`, `seeding` | exact solutions of the additive model, as seeds |
| `optimizer`, `surrogate` | NSGA-II, and what the run has learnt to predict |
| `steady` | generation after generation, without waiting for the slowest |
| `proxies`, `promotion` | what do few images say, and who is scored on all of them? |
| `measure`, `promise` | with `--measure-on`: which picks keep their budget on a real device? |
| `actors`, `evaluating`, `nodes`, `ledger` | who evaluates, and what is known already? |
| `tracking` | who is told how the run stands, and where is its copy? |
| `front`, `stock`, `outputs`, `deliver`, `report` | what came of it? |
| `finished`, `recover`, `export`, `apply`, `api` | what is done with a finished run? |
| `run_folder`, `progress` | where everything lies; what is shown meanwhile |
"""
