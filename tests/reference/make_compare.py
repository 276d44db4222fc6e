#!/usr/bin/env python3
"""make_compare.py > compare.json : small inputs and what scipy answers on them.

Needs numpy and scipy; the versions that made the file are recorded in it. Numbers that Python
would write as NaN or Infinity are not asked for: what the tests answer there is driftd's own
decision and is tested beside the code."""
import json, math
import numpy as np, scipy
from scipy import special, stats
from scipy.spatial.distance import jensenshannon

R = np.random.default_rng(20261122)
out = {"made_by": {"numpy": np.__version__, "scipy": scipy.__version__}}

def samples():
    N = lambda n, m=0.0, s=1.0: np.round(R.normal(m, s, n), 3)
    yield "same", N(60), N(40)
    yield "shift", N(60), N(45, 0.8)
    yield "equal sizes", N(50), N(50, 0.3)
    yield "equal sizes, far", N(50), N(50, 3)
    yield "ties", R.integers(0, 4, 70).astype(float), R.integers(0, 5, 30).astype(float)
    yield "constant equal", np.full(9, 7.0), np.full(5, 7.0)
    yield "constant different", np.full(9, 7.0), np.full(5, 8.0)
    yield "constant reference", np.full(9, 0.0), N(12)
    yield "one row", N(30), np.array([0.5])
    yield "one against one", np.array([0.0]), np.array([1.0])
    yield "two against two", np.array([0.0, 1.0]), np.array([2.0, 3.0])
    yield "disjoint", N(20), N(31, 50)
    yield "tiny", np.round(R.uniform(0, 1, 20), 3) * 1e-310, np.round(R.uniform(0, 2, 25), 3) * 1e-310
    yield "large offset", 1e9 + N(30, 0, 1e-1), 1e9 + N(30, 5e-2, 1e-1)
    yield "cauchy", np.round(R.standard_cauchy(60), 3), np.round(R.standard_cauchy(50), 3)

out["samples"] = []
for name, a, b in samples():
    a, b = np.sort(a), np.sort(b)
    auto, asymp = stats.ks_2samp(a, b), stats.ks_2samp(a, b, method="asymp")
    n = round(len(a) * len(b) / (len(a) + len(b)))
    out["samples"].append({"name": name, "reference": a.tolist(), "window": b.tolist(), "ks": auto.statistic, "p": auto.pvalue,
        "p_asymptotic": asymp.pvalue if n >= 1 else None, "wasserstein": stats.wasserstein_distance(a, b)})

# Exact two-sample tails by sizes and h = D lcm(m, n).
out["smirnov"] = []
for m, n, d in [(50, 50, .02), (50, 50, .3), (1000, 1000, .05), (10000, 10000, .02), (10000, 10000, .2), (10000, 9999, .02), (10000, 9999, .08), (7, 11, .5), (7, 11, .9), (120, 80, .15), (1000, 30, .2), (997, 1000, .01), (10000, 1, .9), (5000, 300, .35), (300, 250, .7)]:
    from scipy.stats._stats_py import _attempt_exact_2kssamp
    g = math.gcd(m, n); lcm = m // g * n; h = max(1, round(d * lcm)); ok, _, p = _attempt_exact_2kssamp(m, n, g, h / lcm, "two-sided")
    assert ok; out["smirnov"].append({"m": m, "n": n, "h": h, "p": float(p)})

out["kolmogorov"] = [{"n": n, "d": float(d), "p": float(stats.kstwo.sf(d, n))}
    for n in (1, 2, 3, 5, 10, 33, 50, 100, 140, 141, 200, 450, 1000, 4950, 5001, 30000, 80000, 99999, 100001, 250000, 1000000)
    for d in sorted({min(x, .999) for x in [.51 / n, .9 / n, 1.1 / n] + [math.sqrt(s / n) for s in (.1, .2, .4, .75, 1.2, 2.1, 2.3, 3.9, 4.1, 9, 30, 150, 300)]})
    if stats.kstwo.sf(d, n) > 1e-290]
out["chi2"] = [{"x": float(x), "dof": k, "p": float(stats.chi2.sf(x, k)), "ln_p": float(stats.chi2.logsf(x, k))}
    for k in (1, 2, 3, 9, 11, 30, 255, 1000, 99999) for x in (1e-6, .01, .5 * k, .9 * k, k, k + 2, 1.1 * k + 3, 2 * k + 10, 3 * k + 100, 3 * k + 600) if stats.chi2.sf(x, k) > 1e-300]
out["normal"] = [{"ln_p": float(l), "z": float(-special.ndtri_exp(l))} for l in (-60, -59.5, -40, -20, -9, -5, -2, -1, -.7, -.69, -.5, -.1, -1e-3, -1e-6)]

out["tables"] = []
for a, b in [([400, 300, 200, 100], [300, 300, 200, 200]), ([812, 603, 391, 194], [402, 301, 199, 98]), ([80, 20], [13, 7]), ([8, 2], [3, 7]), ([500, 300, 200], [0, 1, 0]), ([500, 500, 0, 0], [0, 0, 250, 250]),
             ([80000, 20000], [700, 300]), ([5, 5], [5, 5]), ([30, 0, 50], [20, 0, 10]), ([1000, 500, 30, 8], [900, 450, 60, 0]), ([80789, 7], [900, 1])]:
    T = np.array([a, b]); K = T[:, T.sum(0) > 0]; x = stats.chi2_contingency(K, correction=False); p, q = T[0] / T[0].sum(), T[1] / T[1].sum(); s = 1 / T[0].sum() + 1 / T[1].sum(); B = K.shape[1]
    u, v = [(k + .5) / (k.sum() + .5 * B) for k in K]
    e = {"reference": a, "window": b, "min_expected": x.expected_freq.min(), "chi2": x.statistic, "p": x.pvalue, "js": jensenshannon(p, q, 2), "psi": float(((v - u) * np.log(v / u)).sum())}
    e["psi_p"] = float(stats.chi2.sf(e["psi"] / s, B - 1))
    # V of the same shares with a million rows on both sides: what the effect is but for its bias
    e["v"] = float(stats.contingency.association(np.rint(np.array([p, q])[:, T.sum(0) > 0] * 10**9).astype(int), "cramer"))
    if len(a) == 2: e["fisher"] = float(stats.fisher_exact(T)[1])
    out["tables"].append(e)

ps = [.001, .008, .039, .041, .042, .06, .074, .205, .212, .216, .222, .251, .269, .275, .34, .341, .384, .569, .594, .696, .762, .94, .942, .975, .986]
out["adjust"] = {"p": ps, "benjamini_hochberg": stats.false_discovery_control(ps).tolist()}
json.dump(out, __import__("sys").stdout, allow_nan=False, separators=(",", ":"), default=float)
