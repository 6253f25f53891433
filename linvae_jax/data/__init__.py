"""Where data come from, and what is done to them before a model sees them.

| module | question it answers |
| --- | --- |
| `datasets` | how do I get digits, MNIST or my own file, and where did they come from? |
| `preprocessing` | pixels to real numbers (dequantise, logit), and which constant leads back? |
| `synthetic` | data with a covariance spectrum of my choice |

Nothing else of `linvae_jax` imports this subpackage: the mathematics takes any (N, n) array.
"""
