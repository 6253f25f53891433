"""What does the paper claim of linear VAEs, and does it hold?

| module | what it does |
| --- | --- |
| `experiments` | trains and studies the linear VAE |
| `claims` | measures C1 to C7 |
"""
