"""Why do the latents of my VAE collapse? An answer from data, loss, saved codes, or the model.

| module | question it answers |
| --- | --- |
| `codes` | what do saved codes say by themselves: KL, collapse, has training ended? |
"""
