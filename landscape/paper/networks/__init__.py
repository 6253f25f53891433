"""What does the paper claim of nonlinear VAEs, and does it hold?

| module | what it does |
| --- | --- |
| `experiments` | trains the paper's networks |
| `claims` | judges C8 to C10 |
| `table` | has the paper's table of 20 rows, and puts ours beside it |
| `protocols` | asks how the paper's networks were trained |
"""
