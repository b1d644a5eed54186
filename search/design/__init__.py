"""Design studies: which model on which device in which power mode, by which method.

| module | what it knows |
| --- | --- |
| `plan` | from STUDY.yaml to the searches to run |
| `carry_out` | runs them one after the other, each with what the earlier ones evaluated |
| `compare` | from their reports to one comparison: budgets, frame rates, milliseconds, methods |
| `outputs` | comparison.csv, the table on the terminal and the page |
"""
