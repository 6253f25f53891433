"""Where are the stationary points of a linear VAE?

| module | question it answers |
| --- | --- |
| `stationary` | which stationary points does pPCA have, with which value and index? |
| `census` | which points are there in all, the ELBO's mixed saddles included? |
| `search` | does brute force find a point that is not on the list? |
"""
