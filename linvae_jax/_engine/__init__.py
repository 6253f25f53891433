"""What runs the sweeps; `linvae_jax.sweeps` is its face, and nobody else knows it.

| module | what it does |
| --- | --- |
| `trainer` | takes chunks of runs through training |
| `parallel` | shares runs out to cores, devices and hosts |
| `divergence` | says which runs have diverged, also at finite numbers |
| `sweep_folder` | keeps results and checkpoints, so that what was killed goes on |
| `run_files` | writes and reads the file of a finished run, with checksums |
| `checkpoints` | saves atomically by Orbax, and verifies |
"""
