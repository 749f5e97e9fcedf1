r"""ComBat: features of several sites brought to one mean and one spread, fitted on training scans only.

With y_ijf the feature f of scan j at site i, covariates x_ij that are kept, and e ~ N(0, 1),

    y_ijf = a_f + x_ij b_f + s_f (g_if + d_if e_ijf),

a_f, b_f by least squares (a_f the mean over sites weighted by their scans), s_f^2 the mean squared residual (divided by
n). On z_ijf = (y_ijf - a_f - x_ij b_f) / s_f, site effects g_if and d_if^2 have priors N(m_i, t_i^2) and inverse gamma
(k_i, l_i) whose parameters are moments over features; their posterior means solve

    g*_if = (n_i t_i^2 mean_j z_ijf + d*_if^2 m_i) / (n_i t_i^2 + d*_if^2),
    d*_if^2 = (l_i + 1/2 sum_j (z_ijf - g*_if)^2) / (n_i / 2 + k_i - 1),

and what is returned is s_f (z_ijf - g*_if) / d*_if + a_f + x_ij b_f.

References: Johnson WE, Li C, Rabinovic A. Adjusting batch effects in microarray expression data using empirical Bayes
methods. Biostatistics 2007, 8:118-127. Fortin JP et al. Harmonization of cortical thickness measurements across
scanners and sites. NeuroImage 2018, 167:104-120. The order of steps, the divisors and the tolerance are those of its
authors' neuroCombat.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tlimb.errors import InputError, Problem, nearest

TOLERANCE = 1e-4
"""Largest relative change of any site effect at which the iteration ends."""

MOST_STEPS = 1000
"""Iterations after which it ends in any case."""

LEAST = 2
"""Training scans that a site needs for a spread of its own."""


@dataclass(frozen=True)
class ComBat:
    """What was fitted: sites in order; mean (F,), effects of covariates (q, F) and scale (F,) of features; shift and
    spread (sites, F) of each site. Features that were constant have scale 0 and are left as they are."""

    sites: tuple[str, ...]
    mean: np.ndarray
    effects: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    spread: np.ndarray

    def apply(self, features, sites, covariates=None, keep_unknown: bool = False) -> np.ndarray:
        """Features (n, F) of scans from `sites` (n,), harmonised; float64.

        covariates: (n, q), as in the fit. Raises InputError naming sites that were not fitted, unless `keep_unknown`:
        their scans then stay as they are.
        """
        features, sites = np.asarray(features, float), np.asarray(sites, dtype=str)
        known = np.isin(sites, self.sites)
        if not keep_unknown and not known.all():
            unknown = sorted(set(sites[~known]))
            problems = [Problem(f"site {name}", "has no training scan", nearest(name, self.sites)) for name in unknown]
            raise InputError(problems)
        rows = np.flatnonzero(known)
        row = np.array([self.sites.index(site) for site in sites[rows]], dtype=int)
        middle = self.mean + _columns(covariates, len(features))[rows] @ self.effects
        varies = self.scale > 0
        divisor = np.where(varies, self.scale, 1)
        standard = (features[rows] - middle) / divisor
        harmonised = features.copy()
        moved = (standard - self.shift[row]) / self.spread[row] * divisor + middle
        harmonised[rows] = np.where(varies, moved, features[rows])
        return harmonised


def fit_combat(features, sites, covariates=None) -> ComBat:
    """Fit on the features (n, F) of training scans from `sites` (n,), keeping what covariates (n, q) explain.

    Raises InputError for fewer than two sites, a site with one scan, and covariates that sites explain altogether.
    """
    features, sites = np.asarray(features, float), np.asarray(sites, dtype=str)
    names, row, counts = np.unique(sites, return_inverse=True, return_counts=True)
    _require_sites(names, counts)
    design = np.hstack([np.eye(len(names))[row], _columns(covariates, len(features))])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        message = "a covariate is constant, repeated, or the same throughout each site; its effect can't be told apart"
        raise InputError([Problem("covariates", message, "keep fewer of them")])
    solved = np.linalg.lstsq(design, features, rcond=None)[0]
    mean = counts / len(features) @ solved[: len(names)]
    effects = solved[len(names) :]
    scale = np.sqrt(((features - design @ solved) ** 2).mean(0))
    scale[scale <= 1e-9 * np.abs(features).max(0)] = 0
    varies = scale > 0
    standard = (features - mean - design[:, len(names) :] @ effects)[:, varies] / scale[varies]
    shift, spread = np.zeros((len(names), len(mean))), np.ones((len(names), len(mean)))
    for site in range(len(names)):
        shift[site, varies], variance = _site_effects(standard[row == site])
        spread[site, varies] = np.sqrt(variance)
    return ComBat(tuple(names.tolist()), mean, effects, scale, shift, spread)


def _require_sites(names: np.ndarray, counts: np.ndarray) -> None:
    if len(names) < 2:
        found = f"found {', '.join(names)} alone" if len(names) else "found none"
        raise InputError([Problem("sites", f"expected scans of two sites or more, {found}")])
    few = [name for name, count in zip(names, counts) if count < LEAST]
    if few:
        message = "has one training scan; its spread is not known"
        raise InputError([Problem(f"site {name}", message, "leave its scans out, or join sites") for name in few])


def _site_effects(standard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means of one site's shift and variance (F,) each, of its standardised features (n, F)."""
    count = len(standard)
    own, variance = standard.mean(0), standard.var(0, ddof=1)
    variance[variance == 0] = 1
    if len(own) < 2 or variance.var(ddof=1) == 0:
        return own, variance
    centre, spread = own.mean(), own.var(ddof=1)
    middle, moment = variance.mean(), variance.var(ddof=1)
    shape, scale = (2 * moment + middle**2) / moment, (middle * moment + middle**3) / moment
    shift, found = own, variance
    for _ in range(MOST_STEPS):
        moved = (spread * count * own + found * centre) / (spread * count + found)
        squares = ((standard - moved) ** 2).sum(0)
        updated = (0.5 * squares + scale) / (count / 2 + shape - 1)
        change = max(_relative(moved, shift), _relative(updated, found))
        shift, found = moved, updated
        if change <= TOLERANCE:
            break
    return shift, found


def _relative(new: np.ndarray, old: np.ndarray) -> float:
    """The largest change by the old value; with its sign, as the authors have it, which ends at the same step."""
    return float((np.abs(new - old) / np.where(old == 0, np.finfo(float).tiny, old)).max())


def covariate_columns(table: pd.DataFrame, columns: dict) -> np.ndarray:
    """The covariates of scans as numbers (n, q): quantities as they are, classes one column each but for the first.

    columns: name -> {"kind", "classes"}.
    """
    parts = [np.empty((len(table), 0))]
    for name, facts in columns.items():
        if facts["kind"] == "regression":
            parts.append(table[[name]].to_numpy(float))
        else:
            parts.append((table[[name]].to_numpy(str) == np.array(facts["classes"][1:], dtype=str)).astype(float))
    return np.hstack(parts)


def _columns(covariates, count: int) -> np.ndarray:
    return np.empty((count, 0)) if covariates is None else np.asarray(covariates, float).reshape(count, -1)
