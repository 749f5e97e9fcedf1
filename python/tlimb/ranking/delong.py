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

References: DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more correlated receiver operating
characteristic curves. Biometrics 1988, 44:837-845. Sun X, Xu W. Fast implementation of DeLong's algorithm. IEEE Signal
Processing Letters 2014, 21:1389-1393. Obuchowski NA. Nonparametric analysis of clustered ROC curve data. Biometrics
1997, 53:567-578.
"""

import math

import numpy as np
import pandas as pd

from tlimb.ranking.compare import shared_scans


def delong(pairs: list[tuple[pd.DataFrame, pd.DataFrame]], confidence: float = 0.95) -> dict | None:
    """{"difference", "se", "low", "high", "z", "p"} of the mean area of first minus second; None where it has none.

    pairs: prediction tables of two classes, of trials of one seed, fold and replicate; scans that both predicted count.
    None where a class is absent on some pair or all areas are without variance.
    """
    from scipy.stats import norm

    found = [_influences(*shared_scans(one, two)) for one, two in pairs]
    if not found or any(part is None for part in found):
        return None
    difference = float(np.mean([part[0] for part in found]))
    scans = pd.concat([part[1] for part in found])
    people = scans.groupby("person").sum() / len(found)
    variance = _spread(people, scans)
    if not variance > 0:
        return None
    se = math.sqrt(variance)
    half, z = norm.ppf((1 + confidence) / 2) * se, difference / se
    interval = {"low": float(difference - half), "high": float(difference + half)}
    return {"difference": difference, "se": se} | interval | {"z": z, "p": float(2 * norm.sf(abs(z)))}


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


def _spread(people: pd.DataFrame, scans: pd.DataFrame) -> float:
    a, b = people["a"].to_numpy(), people["b"].to_numpy()
    persons = len(people), int((people["cases"] > 0).sum()), int((people["others"] > 0).sum())
    if min(persons[1:]) < 2:
        return math.nan
    every, with_case, with_other = (count / (count - 1) for count in persons)
    return float(with_case * (a**2).sum() + with_other * (b**2).sum() + 2 * every * (a * b).sum())
