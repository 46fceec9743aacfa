"""A weighted mean over cells as a sum of what each cluster of items adds to it: where every interval here starts.

Items of one cluster (the pairs of one prompt, six languages of one task) vary together, so clusters are resampled.
A stratum is a set of cells that share clusters: its clusters vary among themselves. A stratum of one cluster shows no
variance, so all of these are taken as one stratum (the collapsed strata of survey sampling; Wolter, Introduction to
Variance Estimation, 2007, section 2.5): right where their means are alike, and too wide, never too narrow, elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Stratum:
    """Clusters that are resampled together.

    `contributions` `(..., clusters)`: what a cluster adds to the number beside its share of the mean; `shares`
    `(clusters,)`: the size of its weight in the number.
    """

    contributions: np.ndarray
    shares: np.ndarray


@dataclass(frozen=True)
class Linear:
    """A number and its strata.

    Args:
        value: `(...)`, the number, for each row of values.
        shares: `(observations,)`, each observation's weight in it.
        observed: `(..., observations)`, the values that count.
        strata: of one cluster only where there is no other.
        touched: `(..., clusters)`, whether some value of a cluster is not zero.
    """

    value: np.ndarray
    shares: np.ndarray
    observed: np.ndarray
    strata: list[Stratum]
    touched: np.ndarray


def linearised(
    values: np.ndarray, cells: Sequence[str], clusters: Sequence[str], weights: Mapping[str, float]
) -> Linear:
    """The weighted sum of the cells' means, with what each cluster contributes to it.

    Args:
        values: `(..., observations)`; each row gives a number of its own, over the same observations.
        cells: the cell of each observation, such as its subset.
        clusters: the cluster of each.
        weights: cell -> weight; cells without one do not count.
    """
    counted = np.array([weights.get(cell, 0.0) != 0 for cell in cells], dtype=bool)
    values = np.asarray(values, dtype=float)[..., counted]
    names, cell = np.unique([name for name, kept in zip(cells, counted, strict=True) if kept], return_inverse=True)
    cluster = np.unique([name for name, kept in zip(clusters, counted, strict=True) if kept], return_inverse=True)[1]
    in_cell, in_cluster = _membership(cell), _membership(cluster)
    shares = np.array([weights[name] for name in names])[cell] / in_cell.sum(axis=1)[cell]
    label = _strata(cell, cluster)
    lonely = (((in_cell @ in_cluster.T) > 0).sum(axis=1) == 1)[cell]  # no other cluster: only its stratum has a mean
    means = np.where(lonely, _means(values, _membership(label))[..., label], _means(values, in_cell)[..., cell])
    contributions = (in_cluster @ (shares * (values - means)).T).T
    of_cluster = np.zeros(in_cluster.shape[0], dtype=int)
    of_cluster[cluster] = label
    per_cluster = in_cluster @ np.abs(shares)
    strata = [
        Stratum(contributions[..., inside], per_cluster[inside])
        for inside in (np.flatnonzero(of_cluster == part) for part in np.unique(label))
    ]
    touched = (in_cluster @ (values != 0).T).T > 0
    return Linear((values * shares).sum(axis=-1), shares, values, strata, touched)


def _membership(label: np.ndarray) -> coo_array:
    """Sparse matrix `(groups, observations)`: 1 where an observation belongs to a group."""
    shape = (int(label.max()) + 1, len(label))
    return coo_array((np.ones(len(label)), (label, np.arange(len(label)))), shape).tocsr()


def _means(values: np.ndarray, groups: coo_array) -> np.ndarray:
    """Mean of each group, `(..., groups)`; zero for a group without observations."""
    return (groups @ values.T).T / np.maximum(groups.sum(axis=1), 1)


def _strata(cell: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Index of the stratum of each observation; strata with a single cluster are merged."""
    n_cells = int(cell.max()) + 1
    nodes = n_cells + int(cluster.max()) + 1
    graph = coo_array((np.ones(len(cell)), (cell, n_cells + cluster)), (nodes, nodes))
    labels = connected_components(graph, directed=False)[1]
    sizes = np.bincount(labels[n_cells:])  # clusters of each
    single = np.flatnonzero(sizes == 1)
    together = np.arange(len(sizes))
    if len(single) == 1 and len(sizes) > 1:  # the smallest of the others takes it
        others = np.flatnonzero(sizes > 1)
        together[single] = others[sizes[others].argmin()]
    elif len(single):
        together[single] = single[0]
    return together[labels[cell]]
