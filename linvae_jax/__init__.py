"""Linear VAEs and probabilistic PCA: from data to numbers.

| module | question it answers |
| --- | --- |
| `moments` | which statistics of the data does everything below need? |
| `gaussian` | the two Gaussian formulas that every objective is made of |
| `vae` | what is a VAE to everything here, and what is its ELBO by sampling? |
| `ppca` | the likelihood, its maximum, posterior and samples |
| `linear` | the linear VAE: exact ELBO, analytic gradient, optimal encoder |
| `collapse` | which latents carry no information? |
| `training` | one compiled training run, exact or stochastic gradients |
| `sweeps` | many runs at once: seeds × σ² |
| `tables` | labelled results that reload in one line |
| `progress` | progress bars |
| `data` | digits, tensorflow-datasets, files, synthetic spectra; dequantisation and logit |

Import the modules, not names from here: `from linvae_jax import linear, moments, ppca`.
"""
