#!/usr/bin/env python3
"""make_joint.py > joint.json : small inputs and what numpy, scipy and scikit-learn answer on them.

Needs numpy, scipy and scikit-learn; the versions that made the file are recorded in it. `alibi` holds three inputs with the answers of
alibi-detect 0.13.0 (MMDDrift's own sigma, in single precision) beside the same formula in double precision."""
import json, sys
import numpy as np, scipy, sklearn
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

R = np.random.default_rng(20261123)
out = {"made_by": {"numpy": np.__version__, "scipy": scipy.__version__, "scikit-learn": sklearn.__version__}}

def mmd2(x, y, s):
    k = lambda a, b: np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * s * s))
    n, m = len(x), len(y); a, b, c = k(x, x), k(y, y), k(x, y)
    return (a.sum() - np.trace(a)) / (n * (n - 1)) + (b.sum() - np.trace(b)) / (m * (m - 1)) - 2 * c.mean()

def sigma(x):
    d = ((x[:, None] - x[None]) ** 2).sum(-1)[np.triu_indices(len(x), 1)]; d = np.sort(d[d > 0]); return float(np.sqrt(d[len(d) // 2] / 2))

# Every third row of the reference, from the first, gives mean, population deviation and sigma; the others are compared.
out["mmd"] = []
for name, a, b in [("two columns", R.normal(5, 2, (40, 2)), R.normal(6, 2, (30, 2))), ("same", R.normal(0, 1, (50, 5)), R.normal(0, 1, (60, 5))), ("heavy tails", R.standard_t(2, (60, 3)), R.standard_t(2, (50, 3)) * 2),
                   ("ties", R.integers(0, 3, (40, 2)).astype(float), R.integers(0, 4, (35, 2)).astype(float)), ("far", R.normal(0, 1, (20, 4)), R.normal(9, 1, (20, 4))), ("twelve dimensions", R.normal(0, 1, (90, 12)), R.normal(.3, 1, (80, 12)))]:
    a, b = np.round(a, 3), np.round(b, 3); e = a[::3]; x, y, z = [(v - e.mean(0)) / e.std(0) for v in (np.delete(a, np.s_[::3], 0), b, e)]; s = sigma(z)
    out["mmd"].append({"name": name, "reference": a.tolist(), "window": b.tolist(), "sigma": s, "mmd2": float(mmd2(x, y, s))})

out["alibi"] = [
    {"name": "n2_vs_n2", "reference": [[0.0], [1.0]], "window": [[2.0], [3.0]], "sigma": 1.4142135381698608, "mmd2": 0.5334418016050995, "mmd2_single": 0.5334417223930359},
    {"name": "n5_vs_n5", "reference": [[1.0], [2.0], [3.0], [4.0], [5.0]], "window": [[3.0], [4.0], [5.0], [6.0], [7.0]], "sigma": 0.9999999403953552, "mmd2": 0.060742336125359175, "mmd2_single": 0.06074225902557373},
    {"name": "disjoint_small", "reference": [[1.0], [2.0], [3.0], [4.0]], "window": [[10.0], [11.0], [12.0]], "sigma": 0.6324555277824402, "mmd2": 0.4414236691641995, "mmd2_single": 0.4414227306842804},
]

# Components from even rows, scale from even rows, errors of odd rows and of the window.
out["pca"] = []
for name, mix, other in [("same", .5, .5), ("correlation gone", .9, 0.0), ("tighter", .5, .95)]:
    def rows(n, w): z = R.normal(0, 1, (n, 2)); x = R.normal(0, 1, (n, 6)); return np.round(np.sqrt(1 - w * w) * x + w * z[:, [0, 0, 0, 1, 1, 1]], 3)
    a, b = rows(120, mix), rows(70, other); e, o = a[::2], a[1::2]; f = lambda v: (v - e.mean(0)) / e.std(0)
    p = PCA(svd_solver="full").fit(f(e)); c = np.cumsum(p.explained_variance_ratio_); k = int(np.searchsorted(c, .65)) + 1
    q = p.components_[:k]; err = lambda v: np.linalg.norm(f(v) - p.mean_ - (f(v) - p.mean_) @ q.T @ q, axis=1)
    t = stats.ttest_ind(err(b), err(o), equal_var=False)
    out["pca"].append({"name": name, "reference": a.tolist(), "window": b.tolist(), "components": k, "expected": float(err(o).mean()), "statistic": float(err(b).mean()), "p": float(t.pvalue)})

out["area"] = []
for m, n, ties in [(30, 20, False), (50, 40, True), (5, 9, True)]:
    a, b = R.normal(0, 1, m), R.normal(.4, 1, n)
    if ties: a, b = np.round(a), np.round(b)
    p = stats.mannwhitneyu(b, a, use_continuity=False, method="asymptotic", alternative="greater").pvalue; auc = roc_auc_score(np.r_[np.zeros(m), np.ones(n)], np.r_[a, b])
    out["area"].append({"reference": a.tolist(), "window": b.tolist(), "auc": float(auc), "p": float(p)})
out["student"] = [{"t": t, "freedom": v, "p": float(2 * stats.t.sf(t, v))} for v in (1.5, 4.0, 38.7, 1000.0, 12345.6) for t in (0.0, 1e-3, .5, 2.0, 6.0, 15.0, 30.0) if 2 * stats.t.sf(t, v) > 1e-290]
out["normal"] = [{"z": z, "p": float(stats.norm.sf(z))} for z in (-8.0, -1.0, 0.0, .5, 1.6, 3.7, 6.0, 12.0, 20.0, 35.0)]
json.dump(out, sys.stdout, separators=(",", ":"))
