"""Make reference values of ridge regression, principal components and k-means with scikit-learn.

Run it with
    pip install -r requirements.txt
    python make.py
It writes `scikit-learn.json` next to itself, samples included, so that the test needs nothing else.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

rng = np.random.default_rng(7)


def rounded(x):
    """Samples with few digits, so that the file is short and both sides read the same numbers."""
    return np.round(x, 4)


x = rounded(rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7)) + rng.normal(size=7))
y = rounded(x @ rng.normal(size=(7, 3)) + 5 + 0.3 * rng.normal(size=(60, 3)))
wide = rounded(rng.normal(size=(9, 14)))
groups = rounded(np.concatenate([rng.normal(centre, 3.0, size=(25, 4)) for centre in (0, 3, -4)]))
start = groups[[0, 1, 2, 3]]  # all from one group, so that Lloyd's algorithm has some way to go

cases = {"x": x.tolist(), "y": y.tolist(), "wide": wide.tolist(), "groups": groups.tolist(), "start": start.tolist()}
cases["ridge"] = []
for penalty in (1e-3, 1.0, 30.0):
    fit = Ridge(alpha=penalty, solver="cholesky").fit(x, y)
    cases["ridge"].append(
        {"penalty": penalty, "weights": fit.coef_.T.tolist(), "intercept": fit.intercept_.tolist()}
    )
for name, samples in (("pca", x), ("pca_wide", wide)):
    fit = PCA(n_components=4, svd_solver="full").fit(samples)
    cases[name] = {
        "mean": fit.mean_.tolist(),
        "components": fit.components_.tolist(),
        "variance": fit.explained_variance_.tolist(),
        "explained": fit.explained_variance_ratio_.tolist(),
        "transformed": fit.transform(samples).tolist(),
    }
fit = KMeans(n_clusters=4, init=start, n_init=1, tol=0, algorithm="lloyd").fit(groups)
cases["clusters"] = {"centres": fit.cluster_centers_.tolist(), "labels": fit.labels_.tolist(), "inertia": fit.inertia_}

path = Path(__file__).with_name("scikit-learn.json")
path.write_text(json.dumps(cases) + "\n")
print(path.name, path.stat().st_size, "bytes")
