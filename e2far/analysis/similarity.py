"""How alike features are: what changes move, which faces are neighbours, a map of faces."""

import numpy as np

from e2far.files import extra

with extra("study"):
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.metrics.pairwise import euclidean_distances


def squared_distance(x, y):
    """|x - y|² (n,) of features (n, d).

    Choice: features as they are, not standardised, so that a unit counts by how much it says.
    """
    return np.square(np.asarray(x, np.float64) - np.asarray(y, np.float64)).sum(1)


def nearest(features, queries, count):
    """Rows (q, 1 + count) of each of `queries` (q,) and its nearest others by features (n, d)."""
    distances = euclidean_distances(features[queries], features)
    distances[np.arange(len(queries)), queries] = -1  # itself first
    return np.argsort(distances, axis=1, kind="stable")[:, : 1 + count]


def flatten(features, seed=0):
    """Places (n, 2) of features (n, d) on a map that keeps neighbours together: t-SNE (van der
    Maaten and Hinton 2008) of their first 30 principal components."""
    flat = PCA(min(30, *features.shape), random_state=seed).fit_transform(features)
    return TSNE(perplexity=min(30, len(flat) // 4), init="pca", random_state=seed).fit_transform(
        flat
    )
