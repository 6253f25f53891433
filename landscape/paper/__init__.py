"""Do the paper's claims hold? One pipeline from data to a report.

| module | what it does |
| --- | --- |
| `settings` | says how much is computed |
| `reproduce` | runs the pipeline on one data set, into one folder |
| `linear` | trains and studies the linear VAE, and measures C1 to C7 |
| `networks` | trains the paper's networks, judges C8 to C10, has the paper's table |
| `ledger` | holds claims with their checks, and writes them down |
| `size` | says whether a claim was measured at the paper's size |
| `report` | makes one page of a folder of results |
| `verify` | computes anew what a folder of results says, and compares |
| `quotes` | reads pages that quote the report |
| `facts` | writes and reads what a table says of itself |
"""
