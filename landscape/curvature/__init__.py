"""How does the ELBO bend at a stationary point? In closed form.

All is exact for the linear VAE. `collapsed_latent` samples the other latents of any VAE.

| module | question it answers |
| --- | --- |
| `blocks` | what are all Hessian eigenvalues at a point that pPCA has too? |
| `own_blocks` | what ties a latent to its own component, and to a learned σ²? |
| `arrowhead` | what are the eigenvalues of an arrowhead matrix, which a learned σ² makes? |
| `summaries` | what are index, conditioning and histogram of them, at one σ² and over many? |
| `directions` | which direction belongs to an eigenvalue, and which ways lead out? |
| `operators` | what does that Hessian do: apply, solve, quadratic form, log-determinant? |
| `mixed_blocks` | what are the eigenvalues at a mixed point? |
| `conditioning` | what does any Hessian spectrum say about a point? |
| `escape` | how fast is a collapsed point left, and below which σ²? how stiff are rotations? |
| `collapsed_latent` | could a collapsed latent of any VAE come back? |
| `onset` | at which KL weight does everything collapse, with Bernoulli and Poisson too? |
"""
