#!/usr/bin/env python3
"""make_bins.py > bins.json : counts on the same bins and what scipy and statsmodels answer on them.

Needs numpy, scipy and statsmodels; the versions that made the file are recorded in it. Bins empty on
both sides are left out before scipy sees the table, as driftd does. Numbers that Python would write
as NaN or Infinity are left out: what the tests answer there is driftd's own decision and is tested
beside the code. `expected` is the mean over all deals of the pooled rows on the two sides, computed
here by enumerating whole tables, not bin by bin."""
import itertools, json, math, sys
import numpy as np, scipy, statsmodels
from scipy import stats
from scipy.spatial.distance import jensenshannon
from scipy.stats.contingency import association
from statsmodels.stats.multitest import multipletests

R = np.random.default_rng(20261123)
out = {"made_by": {"numpy": np.__version__, "scipy": scipy.__version__, "statsmodels": statsmodels.__version__}}
np.seterr(all="ignore")

def distances(a, b):
    p, q = a / a.sum(), b / b.sum()
    B, u, v = len(a), (a + .5) / (a.sum() + .5 * len(a)), (b + .5) / (b.sum() + .5 * len(b))
    return {"psi": float(((v - u) * np.log(v / u)).sum()), "js": float(jensenshannon(p, q, 2)),
            "hellinger": math.sqrt(max(0, float(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2))), "kl": float(stats.entropy(p, q)),
            "tv": float(abs(p - q).sum() / 2), "linf": float(abs(p - q).max())}

def pairs():
    for B in (2, 3, 10, 50, 256):
        w = R.dirichlet(np.full(B, 2.0)); d = R.dirichlet(np.full(B, 2.0))
        for n, m in ((1000, 1000), (20000, 900), (80000, 80000), (40, 30)):
            for mix in (0, .05, .5): yield R.multinomial(n, w), R.multinomial(m, (1 - mix) * w + mix * d)
    z = 1 / np.arange(1, 2001) ** 1.1; z /= z.sum()
    yield R.multinomial(5000, z), R.multinomial(800, z)
    for a, b in (([500, 0, 0], [0, 100, 200]), ([3, 1], [1, 3]), ([10, 0], [7, 3]), ([5], [3]), ([1, 0], [0, 1]), ([1, 1], [1, 1]), ([80000, 20000], [700, 300]), ([10**12, 10**9], [10**12, 10**9 + 10**5])): yield np.array(a), np.array(b)

def exact_g(T):
    """40 digits, since scipy's sum cancels for large counts"""
    from decimal import Decimal as D, getcontext
    getcontext().prec = 60; T = [[D(int(x)) for x in r] for r in T]; N = sum(map(sum, T)); C = [a + b for a, b in zip(*T)]
    return float(2 * sum(o * (o * N / (sum(r) * c)).ln() for r in T for o, c in zip(r, C) if o))

out["tables"] = []
for a, b in pairs():
    e = {"reference": a.tolist(), "window": b.tolist()}; a, b = (x[(a + b) > 0] for x in (a, b)); T = np.array([a, b])
    x = stats.chi2_contingency(T, correction=False); y = stats.chi2_contingency(T, correction=True); g = stats.chi2_contingency(T, lambda_="log-likelihood", correction=False)
    e |= {"min_expected": float(x.expected_freq.min()), "chi2": x.statistic, "chi2_p": x.pvalue, "yates": y.statistic, "yates_p": y.pvalue, "g": g.statistic, "g_p": g.pvalue}
    if a.sum() > 10**9: e["g"] = exact_g(T.tolist()); e["g_p"] = float(stats.chi2.sf(e["g"], len(a) - 1))
    e |= distances(a, b)
    if len(a) > 1: e["cramers_v"] = float(association(T, "cramer"))
    if len(a) == 2 and a.sum() < 10**9: f = stats.fisher_exact(T); e |= {"fisher_p": f.pvalue, "odds_ratio": f.statistic}
    out["tables"].append({k: v for k, v in e.items() if not isinstance(v, (float, np.floating)) or math.isfinite(v)})

def deals(t, m):
    """all window counts with these bin totals, and their probability"""
    for b in itertools.product(*(range(x + 1) for x in t)):
        if sum(b) == m: yield np.array(b), math.prod(math.comb(x, k) for x, k in zip(t, b)) / math.comb(sum(t), m)

out["expected"] = []
for a, b in (([3, 2], [1, 4]), ([5, 1, 1], [2, 2, 0]), ([1, 1, 1, 1, 4], [0, 2, 1, 0, 3]), ([1, 1, 1, 0, 0], [0, 0, 0, 1, 1]), ([12, 6], [1, 1])):
    a, b = np.array(a), np.array(b); t, m = a + b, int(b.sum()); s = {"psi": 0, "js": 0, "hellinger": 0, "tv": 0, "chi2": 0, "g": 0, "unseen": 0, "linf": 0}
    for w, p in deals(t, m):
        d, T = distances(t - w, w), np.array([t - w, w])
        for k, v in (("psi", d["psi"]), ("js", d["js"] ** 2), ("hellinger", d["hellinger"] ** 2), ("tv", d["tv"]), ("linf", d["linf"]), ("chi2", stats.chi2_contingency(T, correction=False)[0]),
                     ("g", stats.chi2_contingency(T, correction=False, lambda_="log-likelihood")[0]), ("unseen", w[w == t].sum() / m)): s[k] += p * v
    out["expected"].append({"reference": a.tolist(), "window": b.tolist()} | {k: float(v) for k, v in s.items()})

out["adjust"] = []
for ps in ([.001, .008, .039, .041, .042, .06, .074, .205, .212, .216, .222, .251, .269, .275, .34, .341, .384, .569, .594, .696, .762, .94, .942, .975, .986], [.03, .01, .01, .5], [0.0, 1.0, 1e-300, .2], [.04]):
    out["adjust"].append({"p": ps} | {n: multipletests(ps, method=k)[1].tolist() for n, k in (("bonferroni", "bonferroni"), ("holm", "holm"), ("benjamini_hochberg", "fdr_bh"))})
json.dump(out, sys.stdout, allow_nan=False, separators=(",", ":"), default=float)
