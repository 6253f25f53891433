"""Tables in, figures out: nothing is computed here.

| module | what it draws |
| --- | --- |
| `linear` | the linear VAE: surface, conditioning, escape, census, training |
| `networks` | nonlinear VAEs: collapse curves, encoders, annealing, curvature |
"""
