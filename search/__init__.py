"""Which candidate next? The search itself, from the command line to the files it leaves.

A run reads from top to bottom:

| module | question |
| --- | --- |
| `cli`, `settings` | what was asked? |
| `run` | the whole way once |
| `problem` | what is to be solved: model, data, space, target, budgets |
| `study` | the loop: seed, ask, evaluate, tell, verify |
| `seeding`, `optimizer` | which candidates next? |
| `actors`, `ledger` | who evaluates, and what is known already? |
| `front`, `outputs`, `deliver`, `report` | what came of it? |
| `run_folder`, `progress` | where everything lies; what is shown meanwhile |
"""
