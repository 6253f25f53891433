"""Settings of every test: float64, and Hypothesis without deadlines or luck."""

import os

import hypothesis
import jax

# a test compiles a program and runs it once: half the optimisation takes half of the time
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"
jax.config.update("jax_enable_x64", True)

# a new shape compiles for a quarter of a second, so no deadline; CI must not depend on luck
hypothesis.settings.register_profile("default", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
