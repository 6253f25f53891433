"""Every stationary point of the ELBO, mixed ones included, has its exact Hessian spectrum here.

Rotate the latents of each group onto its components (`mixed.MixedPoint`), and let A_ib be the
change of latent b's weight along u_i, B_bi that of its encoder's. D is one number within a group,
so the rotation changes nothing in (W, V); log D belongs to the latents before the rotation, but
only ties a group's own directions together. With γ = a² + σ² and s² as in `mixed` (γ = σ² where b
is spare):

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
>>> from landscape.curvature import mixed_blocks
>>> from landscape.points import mixed
>>> both = mixed.PointType((mixed.Group((0, 1), 2),))
>>> point = mixed.point(jnp.array([9.0, 1.0]), both, sigma2=1.0)
>>> mixed_blocks.hessian_eigenvalues(point).shape
(10,)
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from landscape.points import mixed
from landscape.points.mixed import MixedPoint, namespace


def _pairs(AA: Any, BB: Any, AB: Any, det: Any, unit: Any) -> Any:
    """Compute both eigenvalues of every [[AA, AB], [AB, BB]], flat, from exact determinants.

    AA and BB are negative. In the table's order of rows the determinants are
    λ_i (σ⁴/s_b² − λ_i)/σ⁴, or with λ_b for σ⁴/s_b² where b is on a component, and
    λ_t (1/s_b² − 1/s_t²): the signs that `mixed.inertia` counts.
    """
    xp = namespace(det)
    a, b = -AA * unit, -BB / unit
    size = (a + b) / 2 + xp.hypot((a - b) / 2, AB)
    return -xp.concatenate([size.ravel(), (det / size).ravel()])


def _exchanges(p: MixedPoint, unit: Any) -> Any:
    """Make the 4 × 4 blocks of all pairs of components of two groups, (pairs, 4, 4)."""
    xp = namespace(p.eigenvalues)
    i, t = np.nonzero(np.triu(p.group[:, None] != p.group))
    lam, gamma, s2 = p.used, p.gamma, p.s2
    a = xp.sqrt(gamma - p.tau)
    zero = xp.zeros(len(i))

    def entries(here: np.ndarray, there: np.ndarray) -> tuple[Any, Any, Any, Any]:
        """Compute AA, BB and AB of A_it and B_ti, and the entry of A_it with B_it."""
        AA = -gamma[there] / (p.tau * s2[there]) * unit
        BB = -lam[here] * gamma[there] / p.tau / unit
        return AA, BB, lam[here] / gamma[here], -(a[i] * a[t]) * lam[there] / (gamma[there] * p.tau)

    AA, BB, AB, other = entries(i, t)
    AA_, BB_, AB_, other_ = entries(t, i)
    rows = [[AA, AB, zero, other], [AB, BB, other_, zero]]
    rows += [[zero, other_, AA_, AB_], [other, zero, AB_, BB_]]
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def _own(lam: Any, s2: Any, m: int, tau: Any, unit: Any) -> Any:
    """Make a group's block: the Hessian of a linear VAE with n = r, at W = diag(a) Q.

    From the second variation of landscape/README.md, 3: with G = WᵀW, V S Vᵀ = G/s² and
    R = S Vᵀ (r, m), A_ib A_ic: −(δ_bc + G_bc/σ²)/s²; B_bi B_ci: −λ_i (δ_bc + G_bc/σ²);
    A_ib B_cj: δ_bc δ_ij λ_i/γ_i − W_ic R_jb/σ²; A_ib d_b: −W_ib/s²; d_b d_b: −½.
    """
    xp, r = namespace(lam), len(lam)
    gamma = xp.sqrt(lam * s2)
    a = xp.sqrt(gamma - tau)
    Q = mixed.sharing(a**2, m)
    W, R = a[:, None] * Q, (a * lam / gamma)[:, None] * Q
    I_r, I_m = np.eye(r), np.eye(m)
    metric = I_m + W.T @ W / tau
    AA = -xp.einsum("ij,bc->ibjc", I_r, metric) / s2
    BB = -xp.einsum("bc,ij->bicj", metric, xp.diag(lam))
    AB = xp.einsum("ij,bc->ibcj", xp.diag(lam / gamma), I_m) - xp.einsum("ic,jb->ibcj", W, R) / tau
    Ad = -xp.einsum("ib,bc->ibc", W, I_m) / s2
    p = r * m
    AA, BB, AB, Ad = AA.reshape(p, p), BB.reshape(p, p), AB.reshape(p, p), Ad.reshape(p, m)
    Bd = np.zeros((p, m))
    Ad = Ad * xp.sqrt(unit)
    return xp.block([[AA * unit, AB, Ad], [AB.T, BB / unit, Bd], [Ad.T, Bd.T, -I_m / 2]])


def hessian_eigenvalues(point: MixedPoint, *, unit_free: bool = False) -> Float[Any, "p"]:
    """Compute all 2nk + k eigenvalues of the Hessian in (W, V, log D) at `mixed.params`.

    With `unit_free` they are those for the data x/√λ₁, the same in every unit of x.

    Returns:
        (2nk + k,), increasing. Eigenvalues of 2 × 2 blocks have all their digits; others are exact
        to rounding of the largest of their block. W bends with 1/x² and V with x², so in an extreme
        unit of the data small eigenvalues of 4 × 4 blocks and of groups lose their digits, and
        their sign. With `unit_free` they do not, and `mixed.inertia` needs no eigenvalues. The
        other members of the type's family share all eigenvalues but those of the groups' own
        blocks, which depend on Q.

    Source: own derivation from the second variation; compared with dense Hessians in the tests.
    """
    p, xp, tau = point, namespace(point.eigenvalues), point.tau
    unit = p.eigenvalues[0] if unit_free else xp.ones_like(p.eigenvalues[0])
    used, used_s2, spare_s2 = p.used, p.s2, p.spare_s2
    # every latent, on a component or spare, against every unused component
    gamma = xp.append(p.gamma, xp.full(len(spare_s2), tau))
    s2 = xp.append(used_s2, spare_s2)
    # λ_b of a component, and what takes its place for a spare latent
    level = xp.append(used, tau * (tau / spare_s2))
    lam = p.unused[:, None]
    det = lam / tau * ((level - lam) / tau)
    parts = [_pairs(-gamma / tau / s2, -lam * (gamma / tau), lam / tau, det, unit)]
    spare, t = np.nonzero(p.foreign)
    b2, t2, lam_t = spare_s2[spare], used_s2[t], used[t]
    det = lam_t / b2 * ((t2 - b2) / t2)
    parts.append(_pairs(-1 / b2, -lam_t, lam_t / p.gamma[t], det, unit))
    parts.append(xp.linalg.eigvalsh(_exchanges(p, unit)).ravel())
    for g, group in enumerate(p.point_type.groups):
        block = _own(used[p.group == g], p.group_s2[g], group.latents, tau, unit)
        parts.append(xp.linalg.eigvalsh(block))
    parts.append(xp.full(p.point_type.collapsed, -0.5))
    return p.beta * xp.sort(xp.concatenate(parts))
