"""The loss surface of linear VAEs: where are the stationary points, how does it bend there?

| module | question it answers |
| --- | --- |
| `stationary` | which stationary points does pPCA have, and what is the value and index at each? |
| `objectives` | what function of which variables is being studied? |
| `hessian` | Hessian of any objective: dense, or as a product with a direction |
| `conditioning` | index, degenerate directions, condition number, escape rate and direction |
| `surface` | the objective along two principal directions |
| `claims` | the paper's claims, measured: holds or does not hold |
| `figures` | labelled data in, figures out |
| `reproduce` | everything above on one data set |
| `cli` | the command `linvae` |

Builds on `linvae_jax`; nothing there knows of this package.
"""
