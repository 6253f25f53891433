"""How do I test a VAE's objective? What to draw, and the laws that must hold.

| module | question it answers |
| --- | --- |
| `laws` | does my function have the gradient, the stationary points and the symmetries it should? |
| `strategies` | which spectra, points, parameters and data should a test draw? (needs Hypothesis) |
"""
