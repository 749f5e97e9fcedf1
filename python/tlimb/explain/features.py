"""The features of held-out scans beside each other, in two dimensions: PCA, t-SNE and UMAP."""

import numpy as np

FEWEST = 4
"""Scans that t-SNE and UMAP need."""

MOST = 3000
"""Scans that are laid out; t-SNE takes minutes for more."""


def pca(features: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """The first two principal components of features (n, F), (n, 2), and the share of the variance of each.

    Pearson (1901), "On lines and planes of closest fit to systems of points in space"; fitted to these scans. The sign
    of each is such that its largest loading is positive. What there is too little of is 0.
    """
    centred = features.astype("float64") - features.mean(0, dtype="float64")
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])
    total = float((sizes**2).sum()) or 1.0
    scores = np.zeros((len(features), 2))
    kept = min(2, len(sizes))
    scores[:, :kept] = (left * sizes * signs)[:, :kept]
    shares = [float(size**2 / total) for size in sizes[:2]]
    return scores, shares + [0.0] * (2 - kept)


def tsne(features: np.ndarray, seed: int) -> tuple[np.ndarray, float | None]:
    """t-SNE of features (n, F), (n, 2), and its perplexity, min(30, (n - 1) / 3); NaN and None for fewer than FEWEST.

    van der Maaten, Hinton (2008), "Visualizing data using t-SNE", JMLR; scikit-learn's, begun at the principal
    components.
    """
    if len(features) < FEWEST:
        return np.full((len(features), 2), np.nan), None
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    begun, _ = pca(features)
    begun = begun / (begun[:, 0].std() or 1.0) * 1e-4
    found = TSNE(perplexity=perplexity, init=begun.astype("float32"), random_state=seed % 2**32)
    return found.fit_transform(features.astype("float32")), perplexity


def umap(features: np.ndarray, seed: int) -> tuple[np.ndarray, int | None]:
    """UMAP of features (n, F), (n, 2), and its neighbours, min(15, n - 1); NaN and None for fewer than FEWEST.

    McInnes, Healy, Melville (2018), "UMAP: uniform manifold approximation and projection for dimension reduction",
    arXiv:1802.03426; umap-learn's, begun at the principal components.
    """
    if len(features) < FEWEST:
        return np.full((len(features), 2), np.nan), None
    from umap import UMAP  # imports for seconds

    neighbours = min(15, len(features) - 1)
    begun, _ = pca(features)
    begun = begun / (np.abs(begun).max() or 1.0) * 10
    found = UMAP(n_neighbors=neighbours, init=begun.astype("float32"), random_state=seed % 2**32, n_jobs=1)
    return found.fit_transform(features.astype("float32")), neighbours
