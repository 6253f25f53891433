"""What is found, as labelled tables.

| module | question it answers |
| --- | --- |
| `linear` | how do points and their curvature change over σ² and patterns of collapse? |
| `surface` | what does the objective look like along two principal directions? |
| `networks` | how does the ELBO bend at trained VAEs, could collapsed latents come back? |
"""
