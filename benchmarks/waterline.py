"""The picture of the README: a network trained on the digits, and its diagnosis.

python -m benchmarks.waterline    # five minutes on 2 cores; writes results/waterline.*
"""

from pathlib import Path

import numpy as np

from landscape import diagnosis
from landscape.figures import style, waterline
from linvae_jax import network_task, networks, streams, tables, training
from linvae_jax.data import datasets

FOLDER = Path(__file__).parent / "results"
MODEL = networks.Mlp(k=32, encoder=(256,), decoder=(256,), activation="tanh", data_scale=0.3)
LOSS = diagnosis.Loss("summed-squared-error", kl_weight=1.0)  # τ = ½


def main() -> None:
    """Train, diagnose, draw."""
    x = (datasets.load("digits").images / 255.0).astype(np.float32)
    tau = LOSS.level(MODEL.n, MODEL.k)
    data = network_task.prepare(x)
    config = training.TrainConfig(num_steps=20_000, record_every=20_000, warmup=500)
    hyper = training.Hyperparameters(sigma2=tau, learned=False, learning_rate=1e-3)
    task = network_task.NetworkTask(MODEL)
    params, _ = training.train(task, config, data, hyper, streams.key(0, "waterline"))
    found = diagnosis.of_model(MODEL, params, x, streams.key(0, "codes"), loss=LOSS)
    print(found)
    tables.save(found, FOLDER / "waterline.nc")
    style.save(waterline.waterline(found), FOLDER / "waterline")


if __name__ == "__main__":
    main()
