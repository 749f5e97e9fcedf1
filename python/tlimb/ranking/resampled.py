"""The corrected resampled t-test: two learners over several splits of the same people."""

import math

import numpy as np


def corrected_t(differences, test_to_train: float) -> dict | None:
    """{"t", "df", "p", "splits"} of J >= 2 differences of a score, one a split; None with fewer or equal differences.

    t = mean(d) / sqrt((1 / J + n_test / n_train) var(d)), var with J - 1, against Student's t with J - 1 degrees of
    freedom, two-sided. The training sets of splits overlap, so their differences vary together; the second term stands
    for that. Equal differences give no variance to judge by, and t is unknown.

    test_to_train: n_test / n_train, the scans tested over those trained on in a split.
    Reference: Nadeau C, Bengio Y. Inference for the generalization error. Machine Learning 2003, 52:239-281, eq. 26.
    """
    from scipy.stats import t as student

    d = np.asarray(differences, float)
    splits = len(d)
    if splits < 2 or not np.isfinite(d).all() or np.ptp(d) == 0:
        return None
    t = d.mean() / math.sqrt((1 / splits + test_to_train) * d.var(ddof=1))
    return {"t": float(t), "df": splits - 1, "p": float(2 * student.sf(abs(t), splits - 1)), "splits": splits}
