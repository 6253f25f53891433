"""Labelled tables in, figures and pages out: nothing is computed here that a table should hold.

| module | what it draws |
| --- | --- |
| `formats` | how numbers, tables and a page are written |
| `style` | the look that all figures share, and how they are saved |
| `linear` | the linear VAE: surface, conditioning, escape, census, training |
| `networks` | nonlinear VAEs: training, collapse, encoders, annealing, curvature, protocols |
| `waterline` | a diagnosis: eigenvalues above the level of the loss, KL, collapse over ε |
"""
