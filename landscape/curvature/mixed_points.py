"""The exact Hessian spectrum at every stationary point of the ELBO, the mixed ones included.

Rotate the latents of each group onto its components (`census.Layout`), and let A_ib be the change
of latent b's weight along u_i, B_bi that of its encoder's. D is one number within a group, so the
rotation changes nothing in (W, V); log D belongs to the latents before the rotation, but only ties
a group's own directions together. With γ = a² + σ² and s² as in `census` (γ = σ² where b is spare):

| block | variables | entries of the symmetric matrix |
| --- | --- | --- |
| b, unused i | A_ib, B_bi | AA: −γ_b/(σ²s_b²); BB: −λ_i γ_b/σ²; AB: λ_i/σ² |
| spare b, t of another group | A_tb, B_bt | AA: −1/s_b²; BB: −λ_t; AB: λ_t/γ_t |
| i and t of two groups | A_it, B_ti, A_ti, B_it | A_it²: −γ_t/(σ²s_t²); B_ti²: −λ_i γ_t/σ²; \
A_it B_ti: λ_i/γ_i; A_it B_it: −a_i a_t λ_t/(γ_t σ²); i and t exchanged; the other two 0 |
| a group's own | A, B, d: (2r + 1) m | `_own` |
| collapsed b | d_b | −½ |

In the third row A_it stands for the latent on t, in the first b is any latent. With a KL weight β,
βσ² stands for σ² and everything is multiplied by β. At m = r = 1 these are the blocks of
landscape/README.md, 3. Cost: that of writing the spectrum down, plus the cube of (2r + 1) m for
each group.

>>> import jax.numpy as jnp
>>> from landscape.points import census
>>> from landscape.curvature import mixed_points
>>> both = census.PointType((census.Group((0, 1), 2),))
>>> mixed_points.eigenvalues(jnp.array([9.0, 1.0]), both, sigma2=1.0).shape
(10,)
"""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from landscape.points import census

Scalar = Float[Array, ""] | float


def _pairs(
    AA: np.ndarray, BB: np.ndarray, AB: np.ndarray, det: np.ndarray, unit: float
) -> np.ndarray:
    """Both eigenvalues of every [[AA, AB], [AB, BB]], flat, from determinants that are exact.

    AA and BB are negative. In the table's order of rows the determinants are
    λ_i (σ⁴/s_b² − λ_i)/σ⁴, or with λ_b for σ⁴/s_b² where b is on a component, and
    λ_t (1/s_b² − 1/s_t²): the signs that `census.inertia` counts.
    """
    a, b = -AA * unit, -BB / unit
    size = (a + b) / 2 + np.hypot((a - b) / 2, AB)
    return -np.concatenate([size.ravel(), (det / size).ravel()])


def _exchanges(p: census.Layout, unit: float) -> np.ndarray:
    """The 4 × 4 blocks of all pairs of components of two groups, (pairs, 4, 4)."""
    i, t = np.nonzero(np.triu(p.group[:, None] != p.group))
    gamma = p.gamma
    a = np.sqrt(gamma - p.noise)
    blocks = np.zeros((len(i), 4, 4))
    for x, (here, there) in enumerate([(i, t), (t, i)]):
        A, B, other_B = 2 * x, 2 * x + 1, 3 - 2 * x  # A_it, B_ti, B_it
        blocks[:, A, A] = -gamma[there] / (p.noise * p.s2[there])
        blocks[:, B, B] = -p.lam[here] * gamma[there] / p.noise
        blocks[:, A, B] = p.lam[here] / gamma[here]
        blocks[:, A, other_B] = -(a[i] * a[t]) * p.lam[there] / (gamma[there] * p.noise)
    scale = np.sqrt([unit, 1 / unit, unit, 1 / unit])
    blocks = blocks * scale * scale[:, None]
    return blocks + np.triu(blocks, 1).swapaxes(1, 2) + np.tril(blocks, -1).swapaxes(1, 2)


def _own(lam: np.ndarray, s2: float, m: int, noise: float, unit: float) -> np.ndarray:
    """A group's block: the Hessian of a linear VAE with n = r, at W = diag(a) Q, in (W, V, log D).

    From the second variation of landscape/README.md, 1: with G = WᵀW, V S Vᵀ = G/s² and
    R = S Vᵀ (r, m), A_ib A_ic: −(δ_bc + G_bc/σ²)/s²; B_bi B_ci: −λ_i (δ_bc + G_bc/σ²);
    A_ib B_cj: δ_bc δ_ij λ_i/γ_i − W_ic R_jb/σ²; A_ib d_b: −W_ib/s²; d_b d_b: −½.
    """
    r = len(lam)
    gamma = np.sqrt(lam * s2)
    a = np.sqrt(gamma - noise)
    Q = census.sharing(a**2, m)
    W, R = a[:, None] * Q, (a * lam / gamma)[:, None] * Q
    I_r, I_m = np.eye(r), np.eye(m)
    metric = I_m + W.T @ W / noise
    AA = -np.einsum("ij,bc->ibjc", I_r, metric) / s2
    BB = -np.einsum("bc,ij->bicj", metric, np.diag(lam))
    AB = (
        np.einsum("ij,bc->ibcj", np.diag(lam / gamma), I_m) - np.einsum("ic,jb->ibcj", W, R) / noise
    )
    Ad = -np.einsum("ib,bc->ibc", W, I_m) / s2
    p = r * m
    AA, BB, AB, Ad = AA.reshape(p, p), BB.reshape(p, p), AB.reshape(p, p), Ad.reshape(p, m)
    Bd = np.zeros((p, m))
    Ad = Ad * np.sqrt(unit)
    return np.block([[AA * unit, AB, Ad], [AB.T, BB / unit, Bd], [Ad.T, Bd.T, -I_m / 2]])


def eigenvalues(
    eigenvalues: Float[Array, "n"] | Any,
    point_type: census.PointType,
    sigma2: Scalar,
    beta: Scalar = 1.0,
    *,
    unit_free: bool = False,
) -> Float[np.ndarray, "p"]:
    """All 2nk + k eigenvalues of the Hessian in (W, V, log D) at a type's `census.representative`.

    Args:
        eigenvalues: (n,), of S, from large to small.
        point_type: which stationary point, of k latents.
        sigma2: noise variance, held fixed.
        beta: weight of the KL.
        unit_free: of the data x/√λ₁ instead, the same in every unit of x.

    Returns:
        (2nk + k,), float64, increasing: those of 2 × 2 blocks with all their digits, others to the
        rounding of the largest of their block. Where the data's unit makes that large, as W bends
        with 1/x² and V with x², small ones of 4 × 4 blocks and of groups lose theirs, their sign
        too: `unit_free` does not, and `census.inertia` needs no eigenvalues. Other members of the
        type's family share all of them but those of the groups' own blocks, which depend on Q.

    Raises:
        ValueError: as `census.layout`.

    Source: own derivation from the second variation; compared with dense Hessians in the tests.
    """
    p = census.layout(eigenvalues, point_type, sigma2, beta)
    noise = p.noise
    unit = float(eigenvalues[0]) if unit_free else 1.0
    # every latent, on a component or spare, against every unused component
    gamma = np.append(p.gamma, np.full(len(p.spare_s2), noise))
    s2 = np.append(p.s2, p.spare_s2)
    # λ_b of a component, and what takes its place for a spare latent
    level = np.append(p.lam, noise * (noise / p.spare_s2))
    lam = p.unused[:, None]
    det = lam / noise * ((level - lam) / noise)
    parts = [_pairs(-gamma / noise / s2, -lam * (gamma / noise), lam / noise, det, unit)]
    spare, t = np.nonzero(p.foreign)
    b2, t2, lam_t = p.spare_s2[spare], p.s2[t], p.lam[t]
    det = lam_t / b2 * ((t2 - b2) / t2)
    parts.append(_pairs(-1 / b2, -lam_t, lam_t / p.gamma[t], det, unit))
    parts.append(np.linalg.eigvalsh(_exchanges(p, unit)).ravel())
    for g, group in enumerate(point_type.groups):
        mine = p.group == g
        block = _own(p.lam[mine], float(p.s2[mine][0]), group.latents, noise, unit)
        parts.append(np.linalg.eigvalsh(block))
    parts.append(np.full(point_type.collapsed, -0.5))
    return float(beta) * np.sort(np.concatenate(parts))
