"""The test of DeLong for two areas under the ROC curve on the same people, several scans a person allowed.

For a case i, V10_i is the share of non-cases that score below it, and for a non-case j, V01_j the share of cases that
score above it, ties counting half. Both means are the area A. By ranks among all scans R, among cases R1 and among
non-cases R0 (ties sharing their mean rank), for m cases and n non-cases:

    V10_i = (R_i - R1_i) / n,   V01_j = 1 - (R_j - R0_j) / m

The variance of a difference of areas comes from the differences of V10 and V01. Summed over the scans of a person, as
Obuchowski does for clustered data, and over trials of one candidate:

    a_p = sum over trials and cases of p of (V10 - A) / m / trials,    b_p likewise of non-cases
    var = I1 / (I1 - 1) sum_p a_p^2 + I0 / (I0 - 1) sum_p b_p^2 + 2 I / (I - 1) sum_p a_p b_p

over I persons, I1 of them with a case, I0 with a non-case. With one trial and one scan a person it is the variance of
DeLong; with one trial that of Obuchowski. Trials that test other persons (folds) add their parts to the same sums.

Several trainings (other seeds, other training samples) also tell how far training anew moves a difference. With C_ij
the same sums of the products of the parts of trainings i and j, which persons alone explain, and s^2 the variance of
their T differences, what is left is sigma^2 = max(0, s^2 - mean C_ii + mean of C_ij, j other than i). Then
V = var + sigma^2 / T takes the place of var, and Student's t with (T - 1) V / (sigma^2 / T) degrees of freedom that of
the normal distribution (`training_chance`).

References: DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more correlated receiver operating
characteristic curves. Biometrics 1988, 44:837-845. Sun X, Xu W. Fast implementation of DeLong's algorithm. IEEE Signal
Processing Letters 2014, 21:1389-1393. Obuchowski NA. Nonparametric analysis of clustered ROC curve data. Biometrics
1997, 53:567-578.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from tlimb.ranking.compare import shared_scans
from tlimb.ranking.training_chance import by_training, places_of, trainings


def delong(
    pairs: list[tuple[pd.DataFrame, pd.DataFrame]], confidence: float = 0.95, keys: Sequence[tuple] | None = None
) -> dict | None:
    """{"difference", "se", "low", "high", "z", "df", "p"} of the mean area of first minus second.

    pairs: prediction tables of two classes, of trials of one seed, fold and replicate; scans that both predicted count.
    keys: which, as `results.key_of` says; without them each pair is a training of its own. df: None where persons alone
    are counted. None where a class is absent on some pair or all areas are without variance.
    """
    from scipy.stats import norm, t

    found = [_influences(*shared_scans(one, two)) for one, two in pairs]
    if not found or any(part is None for part in found):
        return None
    difference = float(np.mean([part[0] for part in found]))
    labels = list(range(len(found))) if keys is None else trainings(keys)
    variance, df = _variance(found, labels)
    if not variance > 0:
        return None
    se, law = math.sqrt(variance), norm if df is None else t(df)
    half, z = law.ppf((1 + confidence) / 2) * se, difference / se
    interval = {"low": float(difference - half), "high": float(difference + half)}
    return {"difference": difference, "se": se} | interval | {"z": z, "df": df, "p": float(2 * law.sf(abs(z)))}


def components(truth: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """The area A and V (n,): V10 of the cases, V01 of the non-cases. truth: (n,) of 0 and 1; score: (n,) numbers."""
    from scipy.stats import rankdata

    case = truth == 1
    cases, others = int(case.sum()), int((~case).sum())
    own = np.empty(len(score))
    own[case], own[~case] = rankdata(score[case]), rankdata(score[~case])
    above = rankdata(score) - own
    v = np.where(case, above / others, 1 - above / cases)
    return float(v[case].mean()), v


def _influences(one: pd.DataFrame, two: pd.DataFrame) -> tuple[float, pd.DataFrame] | None:
    """The difference of two areas, and a row a scan with its person and its part in it as a case or a non-case."""
    truth = one["truth"].to_numpy(float)
    case = truth == 1
    if not case.any() or case.all():
        return None
    areas = [components(truth, _probability(table)) for table in (one, two)]
    difference, v = areas[0][0] - areas[1][0], areas[0][1] - areas[1][1]
    part = (v - difference) / np.where(case, case.sum(), (~case).sum())
    facts = {"person": one["person"].to_numpy(str), "a": np.where(case, part, 0), "b": np.where(case, 0, part)}
    return difference, pd.DataFrame(facts | {"cases": case * 1, "others": ~case * 1})


def _probability(table: pd.DataFrame) -> np.ndarray:
    return np.array(table["probabilities"].tolist(), float)[:, 1]


def _variance(found: list[tuple[float, pd.DataFrame]], labels: list) -> tuple[float, float | None]:
    """The variance of the mean difference, and its degrees of freedom where training has a share in it."""
    scans = pd.concat([part[1] for part in found])
    persons = _person_variance([part[1] for part in found], scans)
    count = len(dict.fromkeys(labels))
    if count < 2 or not persons > 0:
        return persons, None
    spread = float(by_training(np.array([part[0] for part in found]), labels).var(ddof=1))
    left = spread - _explained([[found[place][1] for place in group] for group in places_of(labels)], scans)
    if left <= 0:
        return persons, None
    variance = persons + left / count
    return variance, (count - 1) * variance / (left / count)


def _explained(groups: list[list[pd.DataFrame]], scans: pd.DataFrame) -> float:
    """What persons explain of the variance between trainings: mean C_ii less mean C_ij, by way of the variances of each
    training and of their mean."""
    each = [part.assign(a=part["a"] / len(group), b=part["b"] / len(group)) for group in groups for part in group]
    own = np.mean([_person_variance(group, scans) for group in groups])
    together = _person_variance(each, scans) * (len(each) / len(groups)) ** 2
    return len(groups) / (len(groups) - 1) * float(own - together)


def _person_variance(parts: list[pd.DataFrame], scans: pd.DataFrame) -> float:
    """The variance by persons of the mean over these trials. scans: of all trials, who count for each class."""
    people = pd.concat(parts).groupby("person")[["a", "b"]].sum() / len(parts)
    a, b = people["a"].to_numpy(), people["b"].to_numpy()
    sides = (scans["person"], scans.loc[scans["cases"] > 0, "person"], scans.loc[scans["others"] > 0, "person"])
    every, with_case, with_other = (side.nunique() for side in sides)
    if min(with_case, with_other) < 2:
        return math.nan
    factors = [count / (count - 1) for count in (every, with_case, with_other)]
    return float(factors[1] * (a**2).sum() + factors[2] * (b**2).sum() + 2 * factors[0] * (a * b).sum())
