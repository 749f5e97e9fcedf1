"""Several predictions of the same scans as one: of an ensemble's members, or of passes with dropout."""

import numpy as np


def together(
    kind: str, predictions: np.ndarray, probabilities: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Their mean prediction (n,), mean probabilities (n, classes) or None, and spread (n,).

    predictions: (m, n); probabilities: (m, n, classes). Where there are probabilities these are averaged, and the
    prediction is what they say. The spread is the standard deviation over m (divided by m) of the prediction, or of the
    probability of the class that is predicted; of several classes at once its mean over classes.

    Lakshminarayanan, Pritzel, Blundell (2017), "Simple and scalable predictive uncertainty estimation using deep
    ensembles", NeurIPS.
    """
    if probabilities is None:
        return predictions.mean(axis=0), None, predictions.std(axis=0)
    mean, spread = probabilities.mean(axis=0), probabilities.std(axis=0)
    if kind == "multilabel":
        return (mean >= 0.5) @ (2.0 ** np.arange(mean.shape[1])), mean, spread.mean(axis=1)
    if kind == "ordinal":
        said = (1 - np.cumsum(mean[:, :-1], axis=1) > 0.5).sum(axis=1)
    else:
        said = mean.argmax(axis=1)
    return said.astype(float), mean, spread[np.arange(len(mean)), said]
