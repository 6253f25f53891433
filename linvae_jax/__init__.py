"""This package computes with linear VAEs and probabilistic PCA, from data to numbers.

| module | question it answers |
| --- | --- |
| `moments` | which statistics of the data does everything below need? |
| `gaussian` | the two Gaussian formulas of every objective: log density and KL |
| `vae` | what is a VAE to everything here, and what is its ELBO by sampling? |
| `ppca` | probabilistic PCA: likelihood, optimal weights and σ², posterior, samples |
| `linear` | the linear VAE: exact ELBO, gradient, optimal encoder, Hadamard gap |
| `networks` | VAEs of Flax networks: perceptrons, convolutions, linear decoders |
| `collapse` | which latents carry no information? |
| `information` | how much does the whole code, or one latent, tell of the data? |
| `evaluation` | what does a trained VAE do with a data set? |
| `predictions` | what would the linear VAE do with it? |
| `training` | one training run of anything: optimiser, schedule, annealing |
| `linear_task` | the linear VAE to be trained: its gradient, and what is recorded of it |
| `network_task` | networks to be trained: minibatches, and what is recorded of them |
| `streams` | keys from integer seeds, one for each purpose |
| `sources` | how do data come to the device, all at once or a window at a time? |
| `sweeps` | many runs at once: seeds × σ² × {learned, held}; how often they are saved |
| `tables` | labelled results that reload in one line |
| `progress` | progress bars |
| `machine` | how many cores, how much memory? |
| `data` | digits, tensorflow-datasets, files, synthetic spectra; dequantisation and logit |

What begins with an underscore is for this project alone: `_engine` runs the sweeps, `_internal` has
checks and helpers. Import the modules, not names from here: `from linvae_jax import linear, ppca`.
"""
