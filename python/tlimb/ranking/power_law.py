r"""A power law through a learning curve, or what the curve is instead.

    s(n) = a + b n^-c,    c > 0, b <= 0 where larger scores are better, b >= 0 where smaller ones are,

fitted by weighted least squares to the means over replicates, and shown only where two tests find nothing against it.

Monotony. Each fall of the score from a size to a larger one, of all pairs of sizes, is tested by a one-sided paired t
test over replicates, corrected by Bonferroni; and Page's test over replicates must find a trend, without which the
curve is a plateau. Page EB. Ordered hypotheses for multiple treatments. J Am Stat Assoc 1963, 58:216-230.

Fit. The residuals r of the K means, in the q = K - 3 directions C that no change of a, b, c explains (fewer parameters,
where one lies at its bound), are held against how replicates vary, the sizes together, since a replicate's smaller
samples are parts of its larger ones: with S the covariance (K, K) of a replicate's scores and R replicates,

    T^2 = R (C r)^T (C S C^T)^-1 (C r),    T^2 (R - q) / (q (R - 1)) ~ F(q, R - q),

Hotelling's test, which is a chi-square test of the residuals where R is large. Rao CR. Some problems involving linear
hypotheses in multivariate analysis. Biometrika 1959, 46:49-58.

Power laws of learning curves: Hestness J et al. Deep learning scaling is predictable, empirically. arXiv:1712.00409,
2017.
"""

from itertools import combinations

import numpy as np

from tlimb.seeds import seed_for

LEAST_SIZES = 4
LEAST_REPLICATES = 10
LEVEL = 0.05
"""Below this probability a test speaks against the power law; Page's test must be below it."""

EXPONENTS = (0.02, 5.0)
"""Where c is looked for; a curve at the lower end has no limit that could be told."""

RESAMPLES = 200
GRID, ROUNDS = 41, 5


def describe_curve(sizes, values, direction: str, confidence: float = 0.95, seed: int = 0) -> dict:
    """What a learning curve is.

    sizes: (K,) training persons, rising. values: (R, K) scores of replicates, all known. direction: "max" or "min".
    Returns {"status": "power law" | "too few points" | "plateau" | "not monotone" | "no power law" | "no limit",
    "text", "a", "b", "c", each {"value", "low", "high"} or null, "p_fall", "p_trend", "p_fit": null where a test was
    not made}. Intervals are percentile bootstraps over replicates.
    """
    sizes, values = np.asarray(sizes, float), np.asarray(values, float)
    sign = 1.0 if direction == "max" else -1.0
    found = {"status": "", "text": "", "a": None, "b": None, "c": None, "p_fall": None, "p_trend": None, "p_fit": None}
    if len(sizes) < LEAST_SIZES or len(values) < LEAST_REPLICATES:
        return found | {"status": "too few points", "text": _too_few(len(sizes), len(values))}
    if np.ptp(values) < 1e-12:
        return found | {"status": "plateau", "text": "the score is the same at every n"}
    first, second, found["p_fall"] = largest_fall(sign * values)
    if found["p_fall"] < LEVEL:
        text = f"the score gets worse from n = {sizes[first]:g} to n = {sizes[second]:g} (p = {found['p_fall']:.2g})"
        text += ": double descent, or something of the data or procedure"
        return found | {"status": "not monotone", "text": text}
    found["p_trend"] = trend(sign * values)
    if found["p_trend"] >= LEVEL:
        text = f"no trend between n = {sizes[0]:g} and n = {sizes[-1]:g} (p = {found['p_trend']:.2g})"
        return found | {"status": "plateau", "text": text}
    parameters = tuple(map(float, fit_power_law(sizes, *_means(values), direction)))
    found["p_fit"] = lack_of_fit(sizes, values, parameters, direction)
    if found["p_fit"] < LEVEL:
        text = f"the score gets better, but not by a power law (p = {found['p_fit']:.2g})"
        return found | {"status": "no power law", "text": text}
    if parameters[2] < EXPONENTS[0] * 1.01:
        return found | {"status": "no limit", "text": "the curve does not bend: larger n must tell where it goes"}
    found |= _with_intervals(sizes, values, parameters, direction, confidence, seed)
    return found | {"status": "power law", "text": ""}


def _too_few(sizes: int, replicates: int) -> str:
    lacking = []
    if sizes < LEAST_SIZES:
        lacking.append(f"{LEAST_SIZES} sizes ({sizes} are there)")
    if replicates < LEAST_REPLICATES:
        lacking.append(f"{LEAST_REPLICATES} replicates that finished at every size ({replicates} are there)")
    return f"a fit needs {' and '.join(lacking)}"


def largest_fall(values: np.ndarray) -> tuple[int, int, float]:
    """The two sizes between which scores (R, K), larger better, fall most surely, and the corrected probability."""
    from scipy.stats import t

    pairs = list(combinations(range(values.shape[1]), 2))
    chances = []
    for one, two in pairs:
        difference = values[:, two] - values[:, one]
        mean, error = difference.mean(), difference.std(ddof=1) / np.sqrt(len(values))
        chances.append(float(mean >= 0) if error == 0 else float(t.cdf(mean / error, len(values) - 1)))
    least = int(np.argmin(chances))
    return *pairs[least], min(1.0, chances[least] * len(pairs))


def trend(values: np.ndarray) -> float:
    """The probability of Page's test that scores (R, K) do not rise with the size."""
    from scipy.stats import page_trend_test

    return float(page_trend_test(values).pvalue)


def power_law(sizes, a: float, b: float, c: float) -> np.ndarray:
    """a + b n^-c."""
    return a + b * np.asarray(sizes, float) ** -c


def fit_power_law(sizes: np.ndarray, mean: np.ndarray, errors: np.ndarray, direction: str) -> np.ndarray:
    """(a, b, c) through the means of scores (..., K), weighted by their standard errors (..., K); shape (..., 3).

    a never passes the best score that there can be: 1 where larger is better, 0 where smaller is. For each c of a grid
    a and b solve a line; the grid closes in on its best point until c is known to 1 in 100,000.
    """
    middle = np.exp(np.log(sizes).mean())
    weights = np.maximum(errors, 1e-3 * np.maximum(np.ptp(mean, axis=-1, keepdims=True), 1e-9)) ** -2.0
    first, last = np.log(EXPONENTS)
    low, high = np.full(mean.shape[:-1], first), np.full(mean.shape[:-1], last)
    for _ in range(ROUNDS):
        logs = np.linspace(low, high, GRID, axis=-1)
        shapes = (sizes / middle) ** -np.exp(logs)[..., None]
        a, b, losses = _lines(shapes, mean[..., None, :], weights[..., None, :], direction)
        best = np.argmin(losses, -1)[..., None]
        a, b, log = (np.take_along_axis(each, best, -1)[..., 0] for each in (a, b, logs))
        step = (high - low) / (GRID - 1)
        low, high = np.maximum(log - step, first), np.minimum(log + step, last)
    return np.stack([a, b * middle ** np.exp(log), np.exp(log)], -1)


def _lines(shapes: np.ndarray, mean: np.ndarray, weights: np.ndarray, direction: str) -> tuple:
    """a, b and squared errors (..., G) of weighted lines mean = a + b shapes, within bounds. shapes: (..., G, K)."""
    bound, sign = (1.0, -1.0) if direction == "max" else (0.0, 1.0)
    total = weights.sum(-1)
    centre, level = (shapes * weights).sum(-1) / total, (mean * weights).sum(-1) / total
    apart = shapes - centre[..., None]
    b = (apart * weights * (mean - level[..., None])).sum(-1) / np.maximum((apart**2 * weights).sum(-1), 1e-300)
    a = level - b * centre
    past = (a - bound) * sign < 0
    to_bound = (shapes * weights * (mean - bound)).sum(-1) / (shapes**2 * weights).sum(-1)
    a, b = np.where(past, bound, a), np.where(past, to_bound, b)
    wrong = b * sign < 0
    a, b = np.where(wrong, level, a), np.where(wrong, 0.0, b)
    return a, b, ((a[..., None] + b[..., None] * shapes - mean) ** 2 * weights).sum(-1)


def lack_of_fit(sizes: np.ndarray, values: np.ndarray, parameters: tuple, direction: str) -> float:
    """The probability of residuals as large as those of the means of scores (R, K), if the power law holds."""
    from scipy.linalg import null_space
    from scipy.stats import f

    a, b, c = parameters
    bound = 1.0 if direction == "max" else 0.0
    free = [abs(a - bound) > 1e-9, abs(b) > 1e-12, EXPONENTS[0] * 1.01 < c < EXPONENTS[1] * 0.99]
    powers = sizes**-c
    slopes = np.stack([np.ones(len(sizes)), powers, -b * powers * np.log(sizes)], 1)[:, free]
    slopes = slopes / np.maximum(np.linalg.norm(slopes, axis=0), 1e-300)
    apart = null_space(slopes.T, rcond=1e-9).T if slopes.shape[1] else np.eye(len(sizes))
    apart = apart[: max(1, len(values) - 2)]
    residual = apart @ (values.mean(0) - power_law(sizes, *parameters))
    covariance = apart @ np.cov(values, rowvar=False) @ apart.T
    count, width = len(values), len(apart)
    distance = count * residual @ np.linalg.pinv(covariance, hermitian=True) @ residual
    return float(f.sf(distance * (count - width) / (width * (count - 1)), width, count - width))


def _means(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard errors (..., K) of scores (..., R, K)."""
    return values.mean(-2), values.std(-2, ddof=1) / np.sqrt(values.shape[-2])


def _with_intervals(sizes, values, parameters, direction: str, confidence: float, seed: int) -> dict:
    random = np.random.default_rng(seed_for(seed, "power law"))
    drawn = random.integers(0, len(values), (RESAMPLES, len(values)))
    fits = fit_power_law(sizes, *_means(values[drawn]), direction)
    low, high = np.quantile(fits, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    named = zip("abc", parameters, low, high)
    return {name: {"value": value, "low": float(one), "high": float(two)} for name, value, one, two in named}
