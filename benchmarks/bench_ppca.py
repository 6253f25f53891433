"""From data in memory to pPCA: ours against scikit-learn's."""

from collections.abc import Iterator

import jax
import numpy as np
from sklearn.decomposition import PCA

from benchmarks import records, timing
from benchmarks.records import Measurement, Scale
from linvae_jax import moments, ppca

# as pixels are, whose mean is about their standard deviation; as logits of pixels are
OFFSETS = {"mean of one standard deviation": 1.0, "mean of four": 4.0}


def from_data(scale: Scale) -> Iterator[Measurement]:
    """NumPy data in float64 to pPCA: moments and their eigendecomposition."""
    count, n, k = (400, 12, 3) if scale == "smoke" else (60_000, 784, 50)
    for name, offset in OFFSETS.items():
        x = np.random.default_rng(0).standard_normal((count, n))
        x *= np.sqrt(np.arange(1, n + 1) ** -1.2 + 0.01)
        x += offset * x.std(axis=0)

        def ours(x=x) -> ppca.PPCA:
            return jax.block_until_ready(ppca.mle(moments.from_data(x), k))

        def theirs(x=x) -> PCA:
            return PCA(k, svd_solver="covariance_eigh").fit(x)

        samples, ends = timing.interleaved(
            {"ours": ours, "scikit-learn": theirs}, 3 if scale == "smoke" else 9
        )
        size = f"{count:,} × {n}, {name}"
        # scikit-learn divides by N − 1
        variances = ends["scikit-learn"].explained_variance_ * (count - 1) / count
        found = (np.asarray(ends["ours"].W) ** 2).sum(axis=0) + float(ends["ours"].sigma2)
        off = np.abs(found - variances).max() / variances.max()
        note = f"variances differ by {off:.0e} of the largest"
        yield records.duration(f"pPCA, {size}", samples["ours"], "s", note=note)
        yield records.duration(f"scikit-learn's PCA, {size}", samples["scikit-learn"], "s")
        bar = 1.0 if scale != "smoke" and offset <= 1 else None
        what = f"ours over scikit-learn's, {size}"
        yield records.ratio(what, samples["ours"], samples["scikit-learn"], bar=bar)
