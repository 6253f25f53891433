"""Checks of input, and helpers that every module may use.

| module | what it does |
| --- | --- |
| `checks` | refuses bad input, with one kind of message |
| `arrays` | makes arrays of JAX from what users give, without loss |
| `covariance` | multiplies rows of the host into their covariance |
| `linalg` | multiplies matrices at full precision |
| `ahead` | works in threads ahead of what is needed |
| `whole_files` | writes a file whole or not at all |
| `version` | says which version this is |
"""
