"""Training the VAE of `network_peers` in PyTorch: a loop, compiled, and its functional ensemble.

Imported only where PyTorch is installed. All start from the same weights as ours and optimise the
same objective with the same Adam, by PyTorch's fused implementation, its fastest; minibatches and
noise are drawn by PyTorch's own generator.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.func import functional_call, grad, stack_module_state, vmap  # pyright: ignore[reportMissingImports]

from benchmarks.network_peers import Layer, Problem, Train, Weights
from linvae_jax import machine

# As many threads as JAX has. They spin for a few ms when a call is over, which JAX in its next turn
# does not feel (1 %); OMP_WAIT_POLICY=passive would end that, but slow PyTorch by 10 %.
torch.set_num_threads(machine.cores())
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(name: Literal["highest", "default"]) -> None:
    """Products in float32 as JAX's precision of that name has them: TF32, where there is one."""
    torch.set_float32_matmul_precision("highest" if name == "highest" else "high")


class Vae(nn.Module):
    """Encoder to means and log variances, decoder, learned σ²; called, its loss."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.encoder = _network(weights.encoder, nn.Conv2d)
        self.decoder = _network(weights.decoder, nn.ConvTranspose2d)
        self.log_sigma2 = nn.Parameter(torch.tensor(weights.log_sigma2, dtype=torch.float32))

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """−ELBO, nats per datum, of a batch with one z each, from `noise` if it is given."""
        mean, log_d = self.encoder(x).chunk(2, dim=1)
        noise = torch.randn_like(mean) if noise is None else noise
        difference = x - self.decoder(mean + torch.exp(0.5 * log_d) * noise)
        square_error = difference.square().flatten(1).sum(dim=1)
        constant = x[0].numel() * (math.log(2 * math.pi) + self.log_sigma2)
        minus_log_density = 0.5 * (constant + square_error * torch.exp(-self.log_sigma2))
        kl = 0.5 * (mean.square() + log_d.exp() - log_d - 1).sum(dim=1)
        return (minus_log_density + kl).mean()


def _network(
    layers: Sequence[Layer], convolution: type[nn.Conv2d] | type[nn.ConvTranspose2d]
) -> nn.Sequential:
    """ReLU between layers; images have their channels first here, last in `Weights`."""
    modules: list[nn.Module] = []
    for i, (w, b) in enumerate(layers):
        before = layers[i - 1][0] if i > 0 else w
        after = layers[i + 1][0] if i + 1 < len(layers) else w
        if w.ndim == 4:
            w = w.transpose(3, 2, 0, 1)
            inputs, outputs = w.shape[1::-1] if convolution is nn.Conv2d else w.shape[:2]
            module = convolution(inputs, outputs, w.shape[2:], stride=2, padding=1)
            if before.ndim == 2:
                side = math.isqrt(before.shape[1] // inputs)
                modules.append(nn.Unflatten(1, (inputs, side, side)))
        else:
            if before.ndim == 4:
                modules.append(nn.Flatten())
                w = w[_channels_first(len(w), before.shape[3])]
            if after.ndim == 4:
                order = _channels_first(len(b), after.shape[3])
                w, b = w[:, order], b[order]
            w = w.T
            module = nn.Linear(*w.shape[::-1])
        with torch.no_grad():
            module.weight.copy_(torch.tensor(w))
            module.bias.copy_(torch.tensor(b))  # pyright: ignore[reportOptionalMemberAccess]
        modules += [module, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def _channels_first(size: int, channels: int) -> np.ndarray:
    """Where the pixels of a flat image with its channels first stand in one with them last."""
    side = math.isqrt(size // channels)
    return np.arange(size).reshape(side, side, channels).transpose(2, 0, 1).reshape(-1)


def tensor(x: np.ndarray) -> torch.Tensor:
    """Data as PyTorch wants them: images with their channels first."""
    return torch.tensor(np.moveaxis(x, -1, 1) if x.ndim == 4 else x).contiguous().to(DEVICE)


def loop(problem: Problem, *, compiled: bool = False) -> Train:
    """One model after another, in a Python loop over steps; loss and gradient maybe compiled."""
    torch.manual_seed(0)
    x, looked_at = tensor(problem.x), tensor(problem.looked_at)
    models = [Vae(weights).to(DEVICE) for weights in problem.weights]
    optimizers = [
        torch.optim.Adam(m.parameters(), problem.learning_rate, fused=True) for m in models
    ]
    calls = [torch.compile(m, fullgraph=True) if compiled else m for m in models]

    def train() -> np.ndarray:
        losses = []
        for model, call, optimizer in zip(models, calls, optimizers, strict=True):
            for _ in range(problem.num_steps):
                loss = call(x[torch.randint(len(x), (problem.batch_size,), device=DEVICE)])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                losses.append(model(looked_at))
        return torch.stack(losses).cpu().numpy()

    return train


def ensemble(problem: Problem) -> Train:
    """All models side by side: `torch.func.vmap` of the gradient over stacked parameters."""
    torch.manual_seed(0)
    x, looked_at = tensor(problem.x), tensor(problem.looked_at)
    models = [Vae(weights).to(DEVICE) for weights in problem.weights]
    params = {name: p.detach() for name, p in stack_module_state(models)[0].items()}
    optimizer = torch.optim.Adam(params.values(), problem.learning_rate, fused=True)

    def loss(params: dict[str, torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
        return functional_call(models[0], params, (batch,))

    gradients_of = vmap(grad(loss), randomness="different")
    losses_of = vmap(loss, in_dims=(0, None), randomness="different")

    def train() -> np.ndarray:
        for _ in range(problem.num_steps):
            rows = torch.randint(len(x), (len(models), problem.batch_size), device=DEVICE)
            for name, gradient in gradients_of(params, x[rows]).items():
                params[name].grad = gradient
            optimizer.step()
        with torch.no_grad():
            return losses_of(params, looked_at).cpu().numpy()

    return train


def loss(weights: Weights, x: np.ndarray, noise: np.ndarray) -> float:
    """Of one batch, with given noise."""
    with torch.no_grad():
        return float(Vae(weights).to(DEVICE)(tensor(x), torch.tensor(noise).to(DEVICE)))
