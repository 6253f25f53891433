"""Data come from here, and are made ready for a model here.

| module | question it answers |
| --- | --- |
| `datasets` | how do I get digits, MNIST, CelebA, photographs or my own file, and from where? |
| `preprocessing` | pixels to real numbers (dequantise, logit), and which constant leads back? |
| `synthetic` | data with a covariance spectrum of my choice |

Behind `datasets`: `digits`, `mnist`, `celeba`, `photographs` and `files` are one source each,
`tfds` prepares and decodes sets of tensorflow-datasets without tensorflow, and `dataset` says what
a data set is. Data larger than a device or than memory are for `linvae_jax.sources`.

Nothing else of `linvae_jax` imports this subpackage: the mathematics takes any (N, n) array.
"""
