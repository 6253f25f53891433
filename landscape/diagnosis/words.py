"""A diagnosis in words: what the terminal and the page say, from the labelled data alone."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr

from landscape.diagnosis import verdicts
from landscape.figures.formats import number

WEIGHTS = "Which KL weight keeps how many latents"  # where the waterline is shown


class Section(NamedTuple):
    """One part of a diagnosis: sentences, and a table below them; rows may be none."""

    heading: str
    sentences: list[str]
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


_GLOSS = {
    True: "λ are the variances of the data's principal components. One above τ is worth a latent.",
    False: "ν say how many times more than the likelihood expects the data vary together.",
}


def sections(table: xr.Dataset) -> list[Section]:
    """Write a table of `of_data`, `of_codes` or `of_model` as sections, the answer first."""
    return list(_sections(table))


def _sections(table: xr.Dataset) -> Iterator[Section]:
    if "waterline" in table:
        yield _loss(table)
        yield _weights(table)
    if "kl" in table:
        yield _codes(table)
        yield _latents(table)
    if "critical_tau" in table:
        yield _ways_back(table)
    if np.isfinite(float(table.get("waterline", 0.0))):
        yield _to_do(table)
    if notes := table.attrs["notes"]:
        yield Section("Notes", notes.split("\n"))


def _value(table: xr.Dataset, name: str) -> float:
    return float(table[name])


def _number(table: xr.Dataset, name: str) -> str:
    return number(_value(table, name), whole=True)


def _loss(table: xr.Dataset) -> Section:
    k, n = int(table.attrs["k"]), table.sizes["component"]
    gaussian = table.attrs["likelihood"] == "gaussian"
    lam, tau = ("λ", "τ") if gaussian else ("ν", "β")
    level, largest = _number(table, "waterline"), number(float(table.eigenvalue[0]))
    if not np.isfinite(_value(table, "waterline")):
        lines = [f"The loss is {table.attrs['loss']}. No σ² is best: it runs to zero."]
        return Section("What your loss asks for", lines)
    above = int(table.num_above)
    lines = [
        f"The loss is {table.attrs['loss']}: {tau} = {level}.",
        f"{above:,} of {n:,} components have {lam} > {tau}; the largest {lam} is {largest}. "
        f"({_GLOSS[gaussian]})",
    ]
    if gaussian and table.collapse_is_optimal:
        lines.append(
            f"Total collapse is the optimum of this loss for the linear VAE: all {k} latents "
            "should collapse, whatever the seed or the annealing. For any network it is a stable "
            "point, which training does not leave. (A better point elsewhere is not ruled out, as "
            "where a few data lie far from the rest.) What ends collapse is a smaller KL weight."
        )
    if not gaussian:
        lines += _onset(table)
    elif not table.collapse_is_optimal:
        used, rate = int(table.linear_num_in_use), _number(table, "linear_rate")
        lines.append(
            f"The best linear VAE uses {used} of {k} latents, with a KL of {rate} nats in all and "
            f"a distortion E‖x − x̂‖² of {_number(table, 'linear_distortion')}."
        )
        if used < k:
            lines.append(f"The other {k - used} should collapse.")
    return Section("What your loss asks for", lines)


def _onset(table: xr.Dataset) -> Iterator[str]:
    ways, critical = int(table.ways_out), number(float(table.eigenvalue[0]))
    if ways:
        used = int(table.linear_num_in_use)
        yield (
            f"Total collapse is unstable below β = {critical} (exact, {ways:,} ways out): training "
            "leaves it."
        )
        yield f"A guide, no theorem: {used} of {table.attrs['k']} latents are used in the end."
    else:
        yield (
            f"Total collapse is stable from β = {critical} on (exact), for any network too: "
            "training does not leave it. (A better point elsewhere is not ruled out.) What ends "
            "collapse is a smaller KL weight."
        )


def _weights(table: xr.Dataset) -> Section:
    collapse = _number(table, "weight_collapse")
    gaussian = table.attrs["likelihood"] == "gaussian"
    what = "All latents of the linear VAE collapse" if gaussian else "Total collapse is stable"
    lines = [f"{what} from a KL weight of {collapse} on."]
    best, weight = _value(table, "weight_best"), None
    if np.isfinite(best):
        weight = number(best)
    if not gaussian:
        lines.append(
            f"With a weight of {weight} the loss is the negative ELBO (β = 1). How many latents "
            "are kept is a guide, no theorem."
        )
    else:
        lines.append("A network may keep fewer: it explains more by each.")
    if gaussian and weight is not None:
        # at the σ² that a loss states, β = 1 is best: weights of another β need another σ²
        stated = table.attrs["sigma2"] != "None"
        line = f"The best weight for the likelihood is {weight}"
        line += ", if σ² is fitted after training." if stated else "."
        if np.isfinite(_value(table, "nats_lost")):
            # at the best weight what is left of either is rounding
            lost, tuned = (
                number(round(max(_value(table, name), 0.0), 6))
                for name in ("nats_lost", "nats_lost_tuned")
            )
            at = "its own σ²" if stated or "learned" in table.attrs["loss"] else "σ² = τ"
            line += f" Read as a Gaussian with {at} yours is {lost} nats per datum worse; "
            line += f"with σ² fitted after training {tuned}."
        lines.append(line)
    rows = []
    for i, wanted in enumerate(table.wanted.values):
        kept = int(table.kept[i])
        if not kept:
            rows.append((f"{wanted}", "none: the data have no such component", ""))
            continue
        low, high, advised = (
            float(table[name][i]) for name in ("weight_low", "weight_high", "weight")
        )
        rows.append((f"{kept}", number(advised), _between(low, high)))
    return Section(
        WEIGHTS, lines,
        ("latents kept:", "KL weight:", "any weight"), tuple(rows),
    )  # fmt: skip


def _between(low: float, high: float) -> str:
    """Write a range, with as many digits as tell its ends apart."""
    if low == 0:
        return f"below {number(high)}"
    ends = number(low), number(high)
    for digits in range(4, 17):
        if ends[0] != ends[1]:
            break
        ends = f"{low:.{digits}g}", f"{high:.{digits}g}"
    return f"{ends[0]} to {ends[1]}"


def _codes(table: xr.Dataset) -> Section:
    k = table.sizes["latent"]
    used, active, rate = int(table.num_in_use), int(table.num_active), _number(table, "rate")
    lines = [
        f"{used} of {k} latents are in use. {k - used} are collapsed: less than 0.01 nats for 99 % "
        f"of the data. {active} are active units. The KL is {rate} nats per datum in all."
    ]
    if weak := int((~table.collapsed & (table.kl < 0.01)).sum()):
        have = "has" if weak == 1 else "have"
        lines.append(f"{weak} of those in use {have} a mean KL below 0.01 nats: for a few data.")
    if "linear_rate" in table and np.isfinite(_value(table, "waterline")):
        lines += _against_linear(table)
    low, high, limit = (
        max(_value(table, name), 0.0)
        for name in ("code_information_lower", "code_information_upper", "information_limit")
    )
    if low > max(limit - 0.5, 0.9 * limit):
        told = f"at least {number(low)} nats of the data; more than log N of those that are "
        told += f"compared, {number(limit)}, cannot be shown"
    elif high < 1e-3:
        told = "nothing of the data"
    else:
        told = f"{number(round(low, 3))} to {number(high)} nats of the data"
    lines += [f"The code tells {told}.", _convergence(table)]
    if "distortion" in table:
        line = (
            f"The distortion is {_number(table, 'distortion')}. With σ² fitted to it, "
            f"{_number(table, 'sigma2_tuned')}, the ELBO is {_number(table, 'elbo_tuned')} nats "
            "per datum"
        )
        gain = _value(table, "elbo_tuned") - _value(table, "elbo")
        if np.isfinite(gain):  # else no σ² is known
            line += f", {number(gain)} more than with σ² = {_number(table, 'sigma2')}"
        lines.append(f"{line}.")
    elif "elbo" in table:
        lines.append(f"The ELBO is {_number(table, 'elbo')} nats per datum.")
    given = table.verdict.values
    which = {verdict: np.flatnonzero(given == verdict) for verdict in verdicts.WORDS}
    rows = tuple((v, f"{len(of)}", _ranges(of)) for v, of in which.items() if len(of))
    return Section("What your latents do", lines, ("verdict", "latents:", "which, from 0"), rows)


def _against_linear(table: xr.Dataset) -> Iterator[str]:
    """Compare a code with that of the best linear VAE."""
    used, expected = int(table.num_in_use), int(table.linear_num_in_use)
    yield f"The best linear VAE uses {expected}, with {_number(table, 'linear_rate')} nats."
    if _mismatched(table):
        total = number(float(table.eigenvalue.sum()))
        yield (
            f"The reconstructions are worse than the mean of the data: "
            f"{_number(table, 'distortion')} against {total}. Are data, codes and reconstructions "
            "in the same order and unit?"
        )
        return
    if used > expected:
        yield (
            "More latents are in use than that. Were the codes trained with this loss, its KL "
            "weight included?"
        )
    if not (missed := _count(table, verdicts.ALTHOUGH)):
        return
    more = "another component has" if missed == 1 else "as many more components have"
    text = (
        f"{_latents_of(missed)} collapsed although {more} λ > τ. (Which of the collapsed ones is "
    )
    text += "called so is arbitrary.)"
    if "objective" not in table:
        yield f"{text} The others may explain what they could: reconstructions would tell."
        return
    gap = _value(table, "objective") - _value(table, "linear_objective")
    loss = f"the loss, E‖x − x̂‖²/(2τ) + KL, is {number(abs(gap))} nats per datum"
    if gap < 0:
        yield f"{text} The others make up for it: {loss} below that of the best linear VAE."
    else:
        yield f"{text} Training or the network failed: {loss} above that of the best linear VAE."


def _mismatched(table: xr.Dataset) -> bool:
    """Say whether reconstructions are worse than a constant: more than sampling z can make them."""
    return "distortion" in table and bool(table.distortion > 1.1 * table.eigenvalue.sum())


def _count(table: xr.Dataset, verdict: int) -> int:
    return int((table.verdict == verdicts.WORDS[verdict]).sum())


def _convergence(table: xr.Dataset) -> str:
    if not int(table.num_in_use):
        return "No latent is in use: whether training has ended, residuals do not tell."
    scale, shift = (_value(table, f"median_{kind}_residual") for kind in ("scale", "shift"))
    medians = f"Of latents in use the median scale residual is {scale:.3f}, of shift {shift:.3f}"
    if bool(table.at_rest):
        return f"Nothing in the codes says that training goes on. {medians}."
    text = f"The codes are not at rest. {medians}; at rest they are below "
    text += f"{verdicts.MEDIAN_SCALE_RESIDUAL} and {verdicts.MEDIAN_SHIFT_RESIDUAL}."
    if far := _count(table, verdicts.UNFINISHED):
        text += f" {_latents_of(far)} beyond {verdicts.SCALE_RESIDUAL} in scale or "
        text += f"{verdicts.SHIFT_RESIDUAL} in shift."
    return text


def _to_do(table: xr.Dataset) -> Section:
    """Say what to change, the most likely thing first."""
    lines = []
    if "kl" in table and "waterline" in table and _mismatched(table):
        lines.append("Give data, codes and reconstructions in the same order and unit.")
    elif "kl" in table:
        if not bool(table.at_rest):
            lines.append(
                "Train on, with a learning rate that falls to zero. If that does not bring the "
                "codes to rest: are they of the training data, are log_var log variances, and does "
                "anything else than this loss hold the latents (weight decay, free bits, batch "
                "normalisation, another KL weight)?"
            )
        if _count(table, verdicts.ALTHOUGH):
            above = "objective" in table and table.objective > table.linear_objective
            lines.append(
                "Latents are collapsed that the loss pays for: train longer, from another start, "
                "or with another network."
                if above
                else "If you want more latents in use, take a smaller KL weight."
            )
    if "waterline" in table and bool(table.collapse_is_optimal):
        half = len(table.wanted) // 2
        half = half if table.kept[half] else 0  # of data with fewer components
        lines.append(
            f"Take a smaller KL weight: {number(float(table.weight[half]))} keeps "
            f"{int(table.kept[half])} in use."
        )
    return Section("What to do", lines or ["Nothing, if so many latents are enough for you."])


def _latents_of(count: int) -> str:
    return "1 latent is" if count == 1 else f"{count} latents are"


def _ranges(which: np.ndarray) -> str:
    """Write whole numbers that go up, with runs of three or more as ranges."""
    parts = np.split(which, np.flatnonzero(np.diff(which) > 1) + 1)
    return ", ".join(
        f"{part[0]}–{part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts
    )


def _latents(table: xr.Dataset) -> Section:
    there = "expected_kl" in table
    headings = ("latent:", "KL:", *(["linear VAE's:"] if there else []), "verdict",
                "scale residual:", "shift residual:", "I(x; z) from:", "to:")  # fmt: skip
    rows = []
    for j in np.argsort(-table.kl.values, kind="stable"):
        one = table.isel(latent=j)
        low, high = (max(float(one[f"information_{end}"]), 0) for end in ("lower", "upper"))
        expected = [f"{float(one.expected_kl):.3f}"] if there else []
        rows.append((
            f"{j}", f"{float(one.kl):.3f}", *expected, str(one.verdict.values),
            _signed(one.scale_residual), _signed(one.shift_residual),
            f"{low:.2f}", f"{high:.2f}",
        ))  # fmt: skip
    return Section("Each latent, largest KL first, in nats", [], headings, tuple(rows))


def _signed(value: xr.DataArray) -> str:
    text = f"{float(value):+.3f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _ways_back(table: xr.Dataset) -> Section:
    critical, ways = _value(table, "critical_tau"), int(table.ways_out)
    now = number(_value(table, "waterline"))
    if np.isinf(critical):
        line = (
            "A collapsed latent can come back at every τ, to second order: the reconstruction "
            "gains already by letting its noise in."
        )
    elif critical == 0:
        line = (
            "No τ brings a collapsed latent back, to second order: what it feeds in the decoder is "
            "dead, or the others explain all that the encoder could tell."
        )
    elif ways:
        line = (
            f"A collapsed latent comes back below τ = {number(critical)}, which the loss is with "
            f"{now}: there are {ways} ways out. Train on, or perturb it."
        )
    else:
        line = (
            f"A collapsed latent comes back below τ = {number(critical)}. At {now} it is stable: "
            "as the other latents are, only a smaller KL weight or σ² brings it back."
        )
    return Section("Can a collapsed latent come back?", [line])
