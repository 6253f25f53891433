"""Labelled tables in, matplotlib figures out: nothing is computed here that a table should hold.

| module | what it draws |
| --- | --- |
| `style` | the look that all figures share, and how they are saved |
| `linear` | the linear VAE: surface, conditioning, escape, census, training |
| `networks` | nonlinear VAEs: collapse curves, encoders, annealing, curvature |
"""
