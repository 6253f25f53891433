"""The loss surface of linear VAEs: where are the stationary points, how does it bend there?

Points:

| module | question it answers |
| --- | --- |
| `stationary` | which stationary points does pPCA have, and what is the value and index at each? |
| `census` | all of them, the ELBO's mixed saddles included: types, value, index, representatives |
| `search` | does brute force find a point that is not on the list? |

Curvature:

| module | question it answers |
| --- | --- |
| `blocks` | all Hessian eigenvalues at a pPCA point, exactly |
| `block_summaries` | the same as index, conditioning, histogram; over many σ² |
| `block_vectors` | any one eigenvector, the escape directions |
| `block_operator` | that Hessian as an operator: apply, solve, quadratic form, log-determinant |
| `arrowhead` | eigenvalues of an arrowhead matrix, which σ² learned makes |
| `mixed_blocks` | all Hessian eigenvalues at a mixed point |
| `objectives` | which function of which variables is studied? |
| `hessian` | Hessian of any objective by autodiff: dense, or as a product with a direction |
| `lanczos` | spectrum of any objective without its matrix: density, index, trace, determinant |
| `lobpcg` | its extreme eigenvalues, with every copy, and all ways to escape |
| `matrix_free` | may these two be trusted with a function? |
| `conditioning` | index, degenerate directions, condition number, escape rate and direction |
| `latent_blocks` | could a collapsed latent of any VAE come back? its Hessian in closed form |
| `escape` | steps of gradient descent to leave a collapsed point: predicted and simulated |

Studies:

| module | question it answers |
| --- | --- |
| `surface` | the objective along two principal directions |
| `trained` | curvature at trained VAEs, nonlinear ones too, over σ² |
| `study` | the above as labelled tables, over σ² and patterns of collapse |
| `ledger` | a claim, its checks, and how they are written down |
| `claims` | the paper's claims, measured: holds or does not hold |
| `figures` | labelled data in, figures out |
| `settings` | how much `reproduce` computes |
| `reproduce` | everything above on one data set |
| `nonlinear` | sweeps of nonlinear VAEs on one data set |
| `paper_table` | the paper's table of 20 rows, and ours beside it |
| `nonlinear_claims` | the claims on nonlinear VAEs, measured |
| `nonlinear_figures` | their figures |
| `report` | all results of a folder as one page |
| `places` | of which settings and data the results in a place are |
| `cli` | the command `linvae` |

Builds on `linvae_jax`; nothing there knows of this package. The mathematics is in README.md here.
"""
