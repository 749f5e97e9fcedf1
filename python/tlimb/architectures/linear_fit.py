"""Linear heads fitted at once: ridge and logistic regression, their penalty chosen on the validation part."""

import numpy as np

PENALTIES = tuple(float(power) for power in 10.0 ** np.arange(4, -4.5, -0.5))
"""What is tried, strongest first, in units of a standardised feature's mean square (1)."""


def fit_ridge(
    train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, float]:
    r"""Weights (1, F), constant (1,) and penalty of the ridge regression of labels (n,) on features (n, F).

    With features x_i standardised on the training scans (mean 0, sd 1 divided by n; one that is constant counts
    nowhere), weights w and constant c minimise

        1/n sum_i (y_i - c - w . x_i)^2 + penalty |w|^2,

    and the penalty is that with the least mean squared error on the validation scans. What is returned is for features
    as they come. Hoerl, Kennard (1970), "Ridge regression: biased estimation for nonorthogonal problems",
    Technometrics 12, 55-67.
    """
    features, labels = train
    mean, scale = _scaling(features)
    middle = labels.mean()
    left, sizes, right = np.linalg.svd((features - mean) * scale, full_matrices=False)
    along = left.T @ (labels - middle)
    shrunk = [sizes / (sizes**2 + penalty * len(labels)) for penalty in PENALTIES]
    weights = np.stack([right.T @ (factor * along) for factor in shrunk])
    predicted = ((validation[0] - mean) * scale) @ weights.T + middle
    best = int(np.argmin(((predicted - validation[1][:, None]) ** 2).mean(0)))
    own = (weights[best] * scale)[None]
    return own, middle - own @ mean, PENALTIES[best]


def fit_logistic(
    train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray], classes: int
) -> tuple[np.ndarray, np.ndarray, float]:
    r"""Weights (classes, F), constants (classes,) and penalty of the logistic regression of class numbers (n,).

    On features standardised as in `fit_ridge`, weights and constants minimise

        1/n sum_i -log softmax(c + W x_i)[y_i] + penalty / 2 |W|^2

    (for two classes in its usual form with one row, whose halves with opposite signs are the two here), and the penalty
    is that with the least cross-entropy on the validation scans. A class without a training scan has the constant
    log 1/n. Fitted by scikit-learn.
    """
    from sklearn.linear_model import LogisticRegression

    features, labels = train
    mean, scale = _scaling(features)
    standard = (features - mean) * scale
    shown = (validation[0] - mean) * scale
    model = LogisticRegression(max_iter=2000, tol=1e-6, warm_start=True)
    best, least = None, np.inf
    for penalty in PENALTIES:
        model.set_params(C=1 / (penalty * len(labels))).fit(standard, labels)
        weights, constants = _all_classes(model, classes, len(labels))
        loss = cross_entropy(shown @ weights.T + constants, validation[1])
        if loss < least:
            best, least = (weights * scale, constants, penalty), loss
    weights, constants, penalty = best
    return weights, constants - weights @ mean, penalty


def _scaling(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (F,) and what standardises: 1 / sd (F,), 0 for a feature that is constant but for rounding."""
    mean, sd = features.mean(0), features.std(0)
    varies = sd > 1e-6 * np.abs(mean)
    return mean, np.divide(1.0, sd, out=np.zeros_like(sd), where=varies)


def _all_classes(model, classes: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    weights, constants = np.zeros((classes, model.coef_.shape[1])), np.full(classes, -np.log(n))
    known, own, constant = model.classes_.astype(int), model.coef_, model.intercept_
    if len(known) == 2:
        own, constant = np.concatenate([-own, own]) / 2, np.concatenate([-constant, constant]) / 2
    weights[known], constants[known] = own, constant
    return weights, constants


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over scans of -log softmax(logits)[label]; logits (n, classes), labels (n,) class numbers."""
    highest = logits.max(1, keepdims=True)
    total = np.log(np.exp(logits - highest).sum(1)) + highest[:, 0]
    return float(np.mean(total - logits[np.arange(len(logits)), labels.astype(int)]))
