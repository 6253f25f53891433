"""Strict settings for every test: float64, no silent promotion of ranks or dtypes."""

import os

import hypothesis
import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "warn")

# a new shape compiles for a quarter of a second, so no deadline; CI must not depend on luck
hypothesis.settings.register_profile("default", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
