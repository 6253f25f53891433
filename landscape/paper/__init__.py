"""Do the paper's claims hold? One pipeline from data to a report.

| module | what it does |
| --- | --- |
| `settings` | says how much is computed |
| `reproduce` | runs the pipeline on one data set, into one folder |
| `linear_experiments` | trains and studies the linear VAE |
| `linear_claims` | measures C1 to C7, of the linear VAE |
| `network_experiments` | trains the paper's networks |
| `network_claims` | measures C8 to C10, of nonlinear VAEs |
| `ledger` | holds claims with their checks, and writes them down |
| `table` | has the paper's table of 20 rows, and puts ours beside it |
| `report` | makes one page of a folder of results |
| `facts` | writes and reads what a table says of itself |
"""
