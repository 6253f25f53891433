"""Why do the latents of my VAE collapse? An answer from data, loss, saved codes, or the model.

| module | question it answers |
| --- | --- |
| `adapters` | how does a VAE of JAX functions, Flax NNX or Linen become a model here? |
| `codes` | what do saved codes say by themselves: KL, collapse, has training ended? |
"""
