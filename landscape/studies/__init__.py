"""What is found, as labelled tables; `landscape` draws and saves them too.

| module | question it answers |
| --- | --- |
| `linear` | how do points and their curvature change over σ² and patterns of collapse? |
| `landscape` | what of all this describes one spectrum, drawn? |
| `surface` | what does the objective look like along two principal directions? |
| `networks` | could a collapsed latent of a trained VAE come back? |
| `network_spectra` | how does the ELBO bend at trained VAEs, in all weights? |
| `identity` | of which settings and data are the results in this place? |
"""
