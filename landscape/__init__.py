"""The loss surface of VAEs: where are its stationary points, and how does it bend there?

| folder | question it answers |
| --- | --- |
| `points` | where are the stationary points of a linear VAE? |
| `curvature` | how does the surface bend there, exactly? can a collapsed latent come back? |
| `autodiff` | how does any function bend, by automatic differentiation? |
| `testing` | what to draw, and which laws to hold it to, in tests of VAEs of one's own |
| `diagnosis` | why do the latents of *my* VAE collapse? from data, saved codes or a model |
| `studies` | the above as labelled tables, over σ² and over trained networks |
| `figures` | tables in, figures and pages out |
| `paper` | do the paper's claims hold? measures, judges, and writes the report |
| `cli` | the command `linvae` |

Each folder's docstring lists its modules. Import those: `from landscape.points import stationary`.
This package builds on `linvae_jax`, where nothing knows of it. README.md here has the mathematics.
"""
