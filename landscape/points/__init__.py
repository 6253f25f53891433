"""Where are the stationary points of a linear VAE?

| module | question it answers |
| --- | --- |
| `stationary` | which stationary points does pPCA have, with which value and index? |
| `mixed` | at which points do latents share components, with which value and index? |
| `census` | which types of points are there in all? |
| `search` | does brute force find a point that is not on the list? |
"""
