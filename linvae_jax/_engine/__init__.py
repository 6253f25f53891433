"""The engine runs the sweeps; `linvae_jax.sweeps` is its face, and nobody else knows it.

| module | what it does |
| --- | --- |
| `sweep_folder` | keeps results and checkpoints, so that what was killed goes on |
| `sweep_table` | makes the labelled table of a sweep from its runs |
| `run_files` | writes and reads the file of a finished run, with checksums |
| `trainer` | takes chunks of runs through training |
| `executors` | calls the programs that train, side by side or one by one |
| `layouts` | shares runs out to cores, devices and hosts, as memory allows |
| `divergence` | says which runs have diverged, also at finite numbers |
| `checkpoints` | saves runs in progress atomically by Orbax, and goes back to an intact save |
| `saves` | describes one save and reads it, with checksums |
| `identity` | says whose folder it is |
| `shapes` | names the leaves of pytrees and traces their shapes |
| `processes` | tells what several processes know together |
"""
