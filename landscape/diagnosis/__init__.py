"""Why do the latents of *my* VAE collapse? An answer from data, loss, saved codes, or the model.

| module | question it answers |
| --- | --- |
| `losses` | which τ, or β, is the loss that I wrote? |
| `levels` | at which level is a component used no more? which weight keeps as many as I want? |
| `expected` | what does the best linear VAE have on these data, with this loss? |
| `codes` | what do saved codes say by themselves: KL, collapse, has training ended? |
| `verdicts` | in use, collapsed as it should be, collapsed although, or not done? |
| `reading` | what can be data and codes, and what is refused? |
| `labelled` | the diagnosis of data, and of codes, as labelled data |
| `models` | the diagnosis of a model in JAX, with the way back of collapsed latents |
| `adapters` | how does a VAE of JAX functions, Flax NNX or Linen become a model here? |
| `words`, `page` | the same in sentences, and as one page with its figures |

The three ways in are names of this folder, with the loss that they take:

>>> import numpy as np
>>> from landscape import diagnosis
>>> x = np.random.default_rng(0).normal(size=(1000, 20)) * np.linspace(3.0, 0.1, 20)
>>> loss = diagnosis.Loss("mean-squared-error", kl_weight=1.0)  # mse_loss as it comes
>>> found = diagnosis.of_data(x, loss, k=10)
>>> float(found.level), bool(found.collapse_is_optimal), found.kept.values.tolist()
(10.0, True, [1, 5, 10])
"""

from landscape.diagnosis.labelled import of_codes as of_codes
from landscape.diagnosis.labelled import of_data as of_data
from landscape.diagnosis.losses import Loss as Loss
from landscape.diagnosis.models import of_model as of_model
