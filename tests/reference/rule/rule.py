"""One rule for "has this feature drifted": the last 1, 2, 3, 4, 6, 8, ... windows, taken together, against the training data.

Reference of src/decide/rule/. `Rule(stream, K).run(stream)` answers (windows x features, which drifted); the first K windows
of the stream are the training data. It draws no random numbers. A stream is a worlds.Stream; README.md tells the editions apart.
"""
import numpy as np
from scipy.special import betaln, fdtrc, gammaln  # fdtrc: upper tail of the F distribution
from scipy.stats import chi2, norm

FEWEST = 20  # training windows; the tests of a pair of files decide below
LENGTHS = sorted([2**k for k in range(13)] + [3 * 2**k for k in range(11)])  # stretches; none is longer than a third of the training data
PRIOR_SD_ROWS = 0.5  # of ln(rows)
PRIOR_SD, PRIOR, KNOWN = 0.1, 4.0, 30  # window means differ by .1 sd before any is seen; this is worth 4 windows, and nothing from 30 windows on
SHAPES = [(0.0, 0.0)] + [(g, a) for a in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98) for g in (0.25, 0.5, 0.75, 1.0)]  # a share g of the wobble is AR(1) with a
LONGEST = 1 / 4  # a memory of 1 / (1 - a) windows longer than this part of the training data looks like their mean: such a stream drifts
OPEN = 0.2  # this much of a question that knows nothing joins those of one name: shapes and tails that none shows stay possible
TAILS = np.array([3.0, 4.0, 6.0, 10.0, 20.0, 1e6])  # degrees of freedom that single windows may have
PULL = 6.3e-5  # windows less likely than this (4 sd) are pulled in to it, but where they stand alone
BLOCKS, SHORTEST_GAP, GAP_PART, PSEUDO = 4, 3, 8, 10.0  # replay: blocks; windows left out beside one; no more than this part of K; windows that theory counts for
PART, LEAST = 4.0, 1.0  # a half for each limit, and a false alarm lasts two windows; the least mean excess
LONG = 1 / 3  # a stretch of L windows needs LONG ln L more: its false alarms last longer
END, FLOOR = 6.0, 2.5  # ln odds at which a drift is over; the least drift that is held against 0, in sd of its stretch
ATOM, GROUP = 0.05, 0.1  # shares: a bin with this has a group of its own; other groups have this at least
OWN_LEVEL, OWN_COUNT = 0.005, 5  # a level with this share and this many rows a window has a group of its own
MOST_PAIRED = 20  # numeric features
EFFECT = dict(location=0.02, spread=0.02, shape=0.02, pairs=0.1, volume=0.69)  # no drift begins below these
EFFECT |= {name: 0.005 for name in ("null", "missing", "wrong_type", "new", "other")}
ALONE, REPEATED = 0.1, 1 / 4  # numbers out of range: a window alone begins a drift from this share of its rows on, or others of its stretch hold this part of them


# ---- 1. Questions: each answers per window with d numbers whose chance variance is 1 / rows (a rate: with a count)
class Question:
    def __init__(self, feature, name, d=1):
        self.feature, self.name, self.d = feature, name, d
        self.volume, self.rate = name == "volume", name in ("null", "missing", "wrong_type", "new", "other")
        self.of_shares = name in ("location", "spread", "shape")


def orthogonal(w, p, others):
    """Weights of bins with mean 0 and variance 1 under p, uncorrelated with others."""
    w = w - (w * p).sum()
    for o in others:
        w = w - (w * o * p).sum() * o
    v = (w * w * p).sum()
    return w / np.sqrt(v) if v > 1e-9 else None


def orthonormal(vectors):
    """Gram and Schmidt, twice for precision; what depends on those before it falls out."""
    basis = []
    for v in vectors:
        size = np.sqrt(v @ v)
        for _ in range(2):
            for b in basis:
                v = v - (v @ b) * b
        if np.sqrt(v @ v) > 1e-9 * size:
            basis.append(v / np.sqrt(v @ v))
    return np.array(basis).T


def cut_groups(p):
    """About ten groups of neighbour bins. A frequent value is alone. Bins out of range go with their neighbours."""
    group, g, mass, last = np.zeros(len(p), int), 0, 0.0, len(p) - 2
    left = p[1:-1].sum()
    for b in range(1, last + 1):
        if p[b] >= ATOM:
            g, mass = g + (mass > 0), 0.0  # what came before closes
            group[b], left = g, left - p[b]
            g += b < last
            continue
        group[b], mass, left = g, mass + p[b], left - p[b]
        if mass >= GROUP - 1e-9 and left >= GROUP - 1e-9:
            g, mass = g + 1, 0.0
    group[0], group[-1] = group[1], group[-2]
    return group


class Asker:
    """What the training data fix of one feature: weights of fine bins, groups of bins, questions."""

    def __init__(self, i, f, K):
        C = f.C[:K].astype(float)
        tot = C.sum(0)
        N = max(tot.sum(), 1.0)
        rows = N / K
        self.K, self.kind, self.weights, self.few, self.group, self.bend, self.rest = K, f.kind, [], None, None, 0.0, 0
        if self.kind == "num":
            p = (tot + 0.5 / len(tot)) / (N + 0.5)
            mode = p.argmax()
            self.out = np.zeros(len(p), bool)
            self.out[[0, -1]] = True  # below and above the range
            if rows * (1 - tot[mode] / N) < 10:
                self.few = np.arange(len(tot)) != mode  # nearly constant: only the rate of other values is asked
            else:
                self.weigh(p)
                self.group = cut_groups(p)
        else:
            self.out, p = tot == 0, tot / N  # a level is known if training windows have it
            small = ((p < OWN_LEVEL) | (C.mean(0) < OWN_COUNT)) & ~self.out
            big = np.flatnonzero(~self.out & ~small)
            self.group = np.full(len(tot), -1)
            self.group[big] = np.arange(len(big))
            self.group[small] = len(big)  # rare levels share a group
        if self.group is not None:
            G, known = self.group.max() + 1, self.group >= 0
            self.p = np.bincount(self.group[known], p[known], G)
            self.least = np.maximum(self.p, 1 / max(rows, 1.0))
            root = np.sqrt(np.maximum(self.p, 1e-300))
            self.basis = orthonormal([root] + [np.bincount(self.group, w * p, G) / root for w in self.weights]) if G else np.zeros((0, 0))
            self.rest = max(G - self.basis.shape[1], 0)
        names = ["location", "spread"][: len(self.weights)] + (["shape"] if self.rest else [])
        names += ["null", "missing", "wrong_type", "new"] + (["other"] if self.few is not None else [])
        self.questions = [Question(i, n, self.rest if n == "shape" else 1) for n in names]

    def weigh(self, p):
        """Normal scores of the bins and their squares. `new` asks for rows out of range, so these count as the last bin here."""
        ends = np.concatenate([[0], np.cumsum(p)])
        ends[-1] = 1.0
        density = norm.pdf(norm.ppf(np.clip(ends, 0, 1)))
        loc = orthogonal((density[:-1] - density[1:]) / p, p, [])
        spread = orthogonal(loc**2, p, [loc])
        self.weights = [loc] if spread is None else [loc, spread]
        for w in self.weights:
            w[0], w[-1] = w[1], w[-2]
        if spread is not None:
            self.bend = 0.5 * (p * loc**2 * spread).sum()

    def groups(self, f, sl):
        """Counts of windows by groups."""
        if self.group is None:
            return None
        C = f.C[sl].astype(float)
        return np.stack([C[:, self.group == g].sum(1) for g in range(len(self.p))], 1) if len(self.p) else np.zeros((len(C), 0))

    def ask(self, f, sl, training):
        """(answer, number of rows) of each question."""
        C = f.C[sl].astype(float)
        n = C.sum(1)
        some = np.maximum(n, 1)
        x = [C @ w / some for w in self.weights]
        if len(x) > 1:
            x[1] = x[1] - self.bend * (x[0] ** 2 - 1 / some)  # spread about the window's own location
        answers = [(v[:, None], n) for v in x]
        if self.rest:
            D = (self.groups(f, sl) / some[:, None] - self.p) / np.sqrt(self.least)
            answers.append((D - D @ self.basis @ self.basis.T, n))
        null, missing, wrong = (a[sl].astype(float) for a in (f.null, f.missing, f.wrong))
        rows, new = n + null + missing + wrong, C[:, self.out].sum(1)
        if training and self.kind == "lab":
            new = C[:, (f.C[: self.K] > 0).sum(0) == 1].sum(1)  # Good and Turing: levels of this window only
        answers += [(c, rows) for c in (null, missing, wrong, new)]
        return answers + ([(C[:, self.few].sum(1), n)] if self.few is not None else [])


def season_values(hours, every):
    """Day of the week; where windows are shorter than a day hour of the day and hour of the week too."""
    day = (hours // 24 + 3) % 7
    return [day] + ([hours % 24, 24 * day + hours % 24] if every < 24 else [])


class Windows:
    """What windows answer: (answer, rows) of each question, counts by groups of each feature, season values."""

    def __init__(self, answers, groups, seasons):
        self.answers, self.groups, self.seasons = answers, groups, seasons

    def take(self, i):
        groups = [None if g is None else g[i] for g in self.groups]
        return Windows([(x[i], n[i]) for x, n in self.answers], groups, [v[i] for v in self.seasons])


# ---- 2. Persistence: the autocorrelations of a shape say how much a mean of L windows varies
_cache = {}


def cached(key, f):
    return _cache[key] if key in _cache else _cache.setdefault(key, np.array([f(g, a) for g, a in SHAPES]))


def stretch(L):
    """Variance of a mean of L windows, in those of one."""
    i = np.arange(1, L)
    return cached(("stretch", L), lambda g, a: (1 + 2 * g * ((1 - i / L) * a**i).sum()) / L)


def after(L):
    """Covariance of a mean of L windows with the window before them."""
    return cached(("after", L), lambda g, a: g * (a ** np.arange(1, L + 1)).mean())


def spectra(K):
    """Expected periodogram of K windows without their mean: the de-biased Whittle likelihood of Sykulski et al. 2019."""

    def of(g, a):
        i = np.arange(K)
        r = g * a**i * (1 - i / K) if a else np.zeros(K)
        r[0] = 1.0
        return np.maximum(2 * np.fft.rfft(r).real - 1, 1e-3)[1:]

    return cached(("spectra", K), of)


# ---- 3. What the training windows say of one question
def prior_weight(K):
    return PRIOR * max(0.0, 1 - K / KNOWN)


def weighted_mean(e, w):
    return (w[:, None] * e).sum(0) / w.sum()


class Learned:
    def __init__(self, q, x, n, seasons):
        K, d = len(n), q.d
        self.q, self.K, self.cap, self.deff = q, K, np.inf, float(d)
        self.p = x.sum() / max(n.sum(), 1.0) if q.rate else 0.0
        e, v0 = self.values(x, n), self.chance(n)
        self.tau2 = self.wobble(e - np.median(e, 0), v0, 1.0)
        w = 1 / (self.tau2 + v0)
        self.mean = weighted_mean(e, w)
        fitted = np.zeros_like(e) + self.mean
        for _ in range(2):  # the second time wild windows are pulled in to what the first fitted, season and all
            z = fitted + self.pull(e - fitted, w)
            self.mean = self.mean if q.rate else weighted_mean(z, w)
            r, used = self.take_seasons(z - self.mean, w, seasons)
            fitted = z - r
            r = e - fitted
            self.tau2 = self.wobble(self.pull(r, w), v0, used)
            w = 1 / (self.tau2 + v0)
            y = r * np.sqrt(w)[:, None]
            Q = (y * y).sum(1) / d
            least = np.median(v0 * w) if q.rate else 1e-12  # a count that chance gives is not wild where training windows have none
            self.cap = max(np.median(Q) / chi2.isf(0.5, self.deff), least) * chi2.isf(PULL, self.deff)
            yc = self.pull(r, w) * np.sqrt(w)[:, None]
            if d > 1:  # Satterthwaite
                M = yc.T @ yc / K
                t = np.trace(M) ** 2
                self.deff = float(np.clip(t / max((M * M).sum() - t / K, t / d), 1, d)) if t > 0 else float(d)
        self.W, self.df = w.sum(), max(K - used, 0.0) + prior_weight(K)
        self.persistence(yc)
        self.tails_of(yc, Q)

    def chance(self, n):
        return np.full(len(n), 1e-6) if self.q.volume else 1 / np.maximum(n, 1)

    def values(self, x, n):
        """Answers; of a rate on Anscombe's scale, from its training share."""
        if not self.q.rate:
            return x.astype(float)
        n = np.maximum(n, 1)
        return (2 * np.sqrt((x + 0.375) / n) - 2 * np.sqrt(self.p + 0.375 / n))[:, None]

    def pull(self, r, w):
        return r * np.sqrt(np.minimum(1, self.cap / np.maximum(w * (r * r).sum(1) / self.q.d, 1e-300)))[:, None]

    def wobble(self, e, v0, used):
        """Mandel and Paule: the tau2 at which squares of windows are what they should be, drawn to the prior."""
        K, ss, t = len(e), (e**2).sum(1) / self.q.d, 0.0
        k = max(K - used, 0.0)
        if K > used and (ss / v0).sum() > k:
            lo, hi = 0.0, float(ss.sum()) + 1e-9
            for _ in range(45):
                t = (lo + hi) / 2
                lo, hi = (t, hi) if (ss / (t + v0)).sum() > k else (lo, t)
        sd = PRIOR_SD_ROWS if self.q.volume else PRIOR_SD
        return (prior_weight(K) * sd**2 + k * t) / (prior_weight(K) + k)

    def take_seasons(self, r, w, seasons):
        """Each season in turn on what is left, if F says so; its means are drawn to 0 as James and Stein do."""
        self.seasons, used = [], 1.0
        for which, v in enumerate(seasons):
            cnt = np.bincount(v)
            S = (cnt > 0).sum()
            if S < 2 or cnt[cnt > 0].min() < 3:
                continue
            ws = np.maximum(np.bincount(v, w), 1e-300)
            m = np.stack([np.bincount(v, w * c) for c in r.T], 1) / ws[:, None]
            within = max((w[:, None] * (r - m[v]) ** 2).sum() / (len(v) - S), 1e-9)  # rounding is no season
            F = (ws[:, None] * m**2).sum() / (S - 1) / within
            if F < 1 + 3 * np.sqrt(2 / (self.q.d * (S - 1))):
                continue
            B = 1 - 1 / F
            self.seasons.append((which, B * m, B * B * (S - 1), S))  # values, what their error counts for, their number
            used += B * (2 - B) * (S - 1)
            r = r - (B * m)[v]
        return r, used

    def persistence(self, yc):
        """Likelihood of each shape, and how much windows vary under it."""
        I = (np.abs(np.fft.rfft(yc, axis=0)[1:]) ** 2).sum(1) / self.K / self.q.d
        I = I + max(0.0, 1 - I.mean())  # never less than chance
        f = spectra(self.K)
        m, ml = len(I), (I / f).mean(1)
        too_long = np.array([1 / (1 - a) > max(LONGEST * self.K, 2) for _, a in SHAPES])
        self.shapelik = -self.deff * (m * np.log(ml) + np.log(f).sum(1)) - 1e3 * too_long
        self.scale = (PRIOR + 2 * m * ml) / (PRIOR + 2 * m)

    def tails_of(self, yc, Q):
        """Likelihood of each tail of single windows, and the scale of its F distribution, by EM."""
        Q = (Q + max(0.0, 1 - Q.mean()) + 1e-9)[:, None]
        c = np.ones(len(TAILS))
        for _ in range(8):
            c = (PRIOR + ((TAILS + self.deff) / (TAILS + self.deff * Q / c) * Q).sum(0)) / (PRIOR + self.K)
        self.taillik = (ln_f_density(Q / c, self.deff, TAILS) - np.log(c)).sum(0)
        self.c = c / max(1.0, (yc * yc).sum(1).mean() / self.q.d)

    def season_offset(self, seasons, like):
        return sum((m[np.minimum(seasons[which], len(m) - 1)] for which, m, _, _ in self.seasons), np.zeros_like(like))


def ln_f_density(x, d1, d2):
    """ln of the density of F(d1, d2). scipy's loses eight digits at d2 = 1e6, where logarithms of gamma functions cancel: by Stirling's series there."""
    a, b = d1 / 2, d2 / 2
    rest = lambda z: (1 / 12 - (1 / 360 - 1 / (1260 * z * z)) / (z * z)) / z
    large = gammaln(a) + a - a * np.log(a + b) - (b - 0.5) * np.log1p(a / b) + rest(b) - rest(a + b)
    ln_beta = np.where(b < 1e3, betaln(a, np.minimum(b, 1e3)), large)
    return a * np.log(d1 / d2) + (a - 1) * np.log(x) - (a + b) * np.log1p(d1 * x / d2) - ln_beta


def posterior(lik, prior):
    lik = lik + np.log(prior)
    lik = np.exp(lik - lik.max())
    return lik / lik.sum()


def fit(questions, windows):
    """Every question by itself; the questions of one name share priors of shapes and of tails (empirical Bayes by EM)."""
    learned = [Learned(q, x, n, windows.seasons) for q, (x, n) in zip(questions, windows.answers)]
    for name in sorted({q.name for q in questions}):
        of = [l for l in learned if l.q.name == name]
        a, b = np.full(len(SHAPES), 1 / len(SHAPES)), np.full(len(TAILS), 1 / len(TAILS))
        for _ in range(21):
            for l in of:
                l.post, l.tails = posterior(l.shapelik, a), posterior(l.taillik, b)
            a, b = ((sum(p) + OPEN / len(p[0])) / (len(of) + OPEN) for p in ([l.post for l in of], [l.tails for l in of]))
    return learned


# ---- 4. -ln p of every stretch that ends at a window
def sums(a):
    return np.concatenate([np.zeros((1,) + a.shape[1:]), np.cumsum(a, 0)])


class Evidence:
    """lnp: -ln p (windows x lengths); e: deviation of each window, v: its variance; level: variance of a stretch, in those of a window."""

    def __init__(self, l, x, n, seasons, lengths):
        q, K, d, n = l.q, l.K, l.q.d, n.astype(float)
        w = np.where(n > 0, 1 / (l.tau2 + l.chance(n)), 0.0)
        e = l.values(x, n) - l.mean
        off = l.season_offset(seasons, e)
        e = e - off
        ec = l.pull(e, np.maximum(w, 1e-300))
        y = ec * np.sqrt(w)[:, None]
        sw, se, out = sums(w), sums(w[:, None] * ec), np.full((len(n), len(lengths)), -1.0)
        if q.rate:  # counts of windows that were pulled in
            some = np.maximum(n, 1)
            c = some * np.maximum((ec + off)[:, 0] / 2 + np.sqrt(l.p + 0.375 / some), 0) ** 2 - 0.375
            sc, sn, so = sums(np.where(n > 0, c, 0)), sums(n), sums(w[:, None] * off)
        for k, L in enumerate(lengths):
            if L > len(n):
                break
            a, b = slice(0, len(n) - L + 1), slice(L, len(n) + 1)
            W = np.maximum(sw[b] - sw[a], 1e-300)
            one = L / W  # variance of a window, as the stretch has it
            if L == 1:
                D = e.copy()  # alone, a window is not pulled in
            elif q.rate:
                D = l.values(np.maximum(sc[b] - sc[a], 0), sn[b] - sn[a]) - (so[b] - so[a]) / W[:, None]
            else:
                D = (se[b] - se[a]) / W[:, None]
            reach = after(L)
            foretold = np.full(len(D), l.post @ reach)  # by the window before
            foretold[0] = 0.0
            foretold[1:][w[: len(D) - 1] <= 0] = 0.0
            D[1:] -= (foretold[1:] * np.sqrt(one[1:]))[:, None] * y[: len(D) - 1]
            own = one * (stretch(L)[:, None] + foretold**2 - 2 * foretold * reach[:, None])
            of_season = sum(bs / min(L, S) for _, _, bs, S in l.seasons)
            of_mean = (1 - foretold) ** 2 * ((K * stretch(K) + of_season) / l.W)[:, None]
            lnV = np.log(l.scale[:, None] * (np.maximum(own, 1e-3 * one) + of_mean))
            mid = l.post @ lnV
            V, df = np.exp(mid), 1 / (1 / l.df + l.post @ (lnV - mid) ** 2 / 2)
            Q = (D**2).sum(1) / d
            if L == 1:
                p = sum(t * fdtrc(l.deff, 1 / (1 / nu + 1 / df), Q / (c * V)) for t, nu, c in zip(l.tails, TAILS, l.c))
            else:
                p = fdtrc(l.deff, df, Q / V)
            out[L - 1 :, k] = np.where(W > 1e-200, -np.log(np.maximum(p, 1e-300)), -1.0)
        self.lnp, self.e, self.v = out, e, np.where(w > 0, 1 / np.maximum(w, 1e-300), np.inf)
        self.level = np.array([np.exp(l.post @ np.log(l.scale * (stretch(L) + stretch(K)))) for L in lengths])


# ---- 5. Effect: how far the merged rows of a stretch are from what training windows lead to expect
class Expected:
    """Shares of the groups of one feature: of all training rows, and what each season adds on what those before left."""

    def __init__(self, counts, seasons, learned):
        n = counts.sum(1)
        self.base, self.seasons = counts.sum(0) / max(n.sum(), 1.0), []
        rest = counts / np.maximum(n, 1)[:, None] - self.base
        for which in sorted({which for l in learned if l.q.of_shares for which, *_ in l.seasons}):
            v = seasons[which]
            rows = np.maximum(np.bincount(v, n), 1.0)
            m = np.stack([np.bincount(v, n * c) for c in rest.T], 1) / rows[:, None]
            self.seasons.append((which, m))
            rest = rest - m[v]

    def of(self, counts, seasons):
        return sum((m[np.minimum(seasons[which], len(m) - 1)] for which, m in self.seasons), np.zeros_like(counts) + self.base)


def ends_of(lengths, T, of):
    """(windows, lengths) of what `of` says of stretches; 0 where none ends."""
    out = np.zeros((T, len(lengths)))
    for k, L in enumerate(lengths):
        if L <= T:
            out[L - 1 :, k] = of(lambda s: s[L:] - s[:-L])
    return out


def ratio(a, b):
    return np.where(b > 0, a / np.where(b > 0, b, 1.0), 0.0)


def effect_of_shares(kind, counts, expected, lengths):
    """Of numbers Kolmogorov and Smirnov's distance on the groups, of labels total variation beyond that of chance."""
    n = counts.sum(1)
    ss, sx, sn = sums(counts), sums(n[:, None] * expected), sums(n)

    def of(merged):
        N = merged(sn)[:, None]
        S, X = ratio(merged(ss), N), ratio(merged(sx), N)
        if kind == "num":
            return np.abs(np.cumsum(S - X, 1)).max(1)
        X1 = np.clip(X, 0, 1)
        by_chance = np.sqrt(ratio(2 * X1 * (1 - X1), np.pi * N)).sum(1)
        return np.maximum(0, np.abs(S - X).sum(1) - by_chance) / 2

    return ends_of(lengths, len(n), of)


def effect_of_rate(l, x, n, lengths):
    sx, sn = sums(x), sums(n)

    def of(merged):
        N = merged(sn)
        return np.where(N > 0, np.abs(ratio(merged(sx), N) - l.p), 0.0)

    return ends_of(lengths, len(n), of)


def repeated(x, n, lengths):
    """(windows, lengths): whether rows out of range are more than one batch. Training windows have none, so how they come cannot be learned."""
    out = np.zeros((len(n), len(lengths)), bool)
    share = ratio(x, n)
    for k, L in enumerate(lengths):
        for t in range(L - 1, len(n)):
            c, fullest = x[t + 1 - L : t + 1], share[t + 1 - L : t + 1].argmax()
            out[t, k] = share[t + 1 - L + fullest] > ALONE or c.sum() - c[fullest] >= max(REPEATED * c.sum(), 1)
    return out


def effect_of_mean(evidence, lengths):
    """Of pairs and rows: the largest weighted mean deviation."""
    w = 1 / evidence.v
    sw, se = sums(w), sums(w[:, None] * evidence.e)
    return ends_of(lengths, len(w), lambda merged: np.abs(ratio(merged(se), merged(sw)[:, None])).max(1))


# ---- 6. Begin and end of a drift of one feature
def walk(excess, single, lengths):
    """excess: (questions, windows, lengths) of -ln p less its limit, -inf where the effect is too small. Answers (drifted, begins)."""
    L, out, begins, since, drift = np.array(lengths), np.zeros(excess.shape[1], bool), [], 0, None
    over = excess.max((0, 2)) > 0

    def begin(t):
        if not over[t]:
            return None
        S = excess[:, t, :][:, L <= t - since + 1]  # no stretch reaches back before the end of the last drift
        if S.max() <= 0:
            return None
        q, i = np.unravel_index(S.argmax(), S.shape)
        out[t] = True
        begins.append((t, int(q), lengths[i]))
        return q, i, t - L[i] + 1, 0.0, t + 1

    for t in range(excess.shape[1]):
        if drift is None:
            drift = begin(t)
            continue
        q, i, onset, R, quiet = drift
        e, v, level = single[q].e, single[q].v, single[q].level
        if not np.isfinite(v[t]):
            out[t] = True  # a window without rows changes nothing
            continue
        d = weighted_mean(e[onset:quiet], 1 / v[onset:quiet])
        far = np.sqrt((d * d).sum())
        size = max(far, FLOOR * np.sqrt(level[i] * v[t]))
        R = max(0.0, R + size * (size / 2 - e[t] @ d / max(far, 1e-300)) / v[t])  # CUSUM of ln odds: back at 0 against still at d
        if R > END:
            since = quiet
            drift = begin(t)
        else:
            out[t] = True
            drift = q, i, onset, R, t + 1 if R == 0 else quiet
    return out, begins


# ---- 7. The rule
class Rule:
    def __init__(self, stream, K, per=30.0, most=1.0):
        if K < FEWEST:
            raise ValueError(f"the rule needs {FEWEST} training windows, there are {K}")
        self.K, self.hazard = K, most / per
        self.day = max(1, int(24 / stream.every + 0.5))
        self.gap = max(SHORTEST_GAP, min(self.day, K // GAP_PART))
        self.askers = [Asker(i, f, K) for i, f in enumerate(stream.features)]
        self.J = len(self.askers) + 2  # and pairs, and rows
        self.paired = [a.weights[0] if a.weights else None for a in self.askers if a.kind == "num"]
        pairs = self.pairs(stream, slice(0, 1))
        self.questions = [q for a in self.askers for q in a.questions]
        self.questions += [] if pairs is None else [Question(self.J - 2, "pairs", pairs.shape[1])]
        self.questions += [Question(self.J - 1, "volume")]
        self.lengths = [L for L in LENGTHS if L <= max(1, K / 3)]
        windows = self.windows(stream, slice(0, K), True)
        self.learned = fit(self.questions, windows)
        self.expected = self.expect(self.learned, windows)
        self.blocks, self.maxima = self.replay(windows)
        self.set_thresholds()

    def pairs(self, st, sl):
        """Covariance of the normal scores of each pair of numeric features; a row without a value counts 0."""
        if st.pairs is not None:
            return st.pairs[sl]
        have = [j for j, w in enumerate(self.paired) if w is not None]
        if st.sample is None or not 2 <= len(have) <= MOST_PAIRED:
            return None
        upper, out = np.triu_indices(len(have), 1), []
        scores = [np.append(self.paired[j], np.zeros(256 - len(self.paired[j]))) for j in have]  # 255: no value
        for bins in st.sample[sl]:
            s = np.stack([w[bins[j]] for j, w in zip(have, scores)])
            mean = s.sum(1) / max(s.shape[1], 1)
            out.append((s @ s.T / max(s.shape[1], 1) - np.outer(mean, mean))[upper])
        return np.array(out)

    def windows(self, st, sl, training=False):
        n = st.rows[sl].astype(float)
        answers = [x for a, f in zip(self.askers, st.features) for x in a.ask(f, sl, training)]
        pairs = self.pairs(st, sl)
        answers += [] if pairs is None else [(pairs, n)]
        answers += [(np.log(n + 1)[:, None], n)]
        return Windows(answers, [a.groups(f, sl) for a, f in zip(self.askers, st.features)], season_values(st.hours()[sl], st.every))

    def expect(self, learned, windows):
        of = [[l for l in learned if l.q.feature == j] for j in range(len(self.askers))]
        return [None if g is None else Expected(g, windows.seasons, ls) for g, ls in zip(windows.groups, of)]

    def judge(self, learned, expected, windows):
        """Per feature evidence and effects of all its questions."""
        shares = [None if g is None else effect_of_shares(a.kind, g, x.of(g, windows.seasons), self.lengths) for a, g, x in zip(self.askers, windows.groups, expected)]
        out = {}
        for l, (x, n) in zip(learned, windows.answers):
            e = Evidence(l, x, n, windows.seasons, self.lengths)
            e.name, e.counts = l.q.name, np.array(True)
            if l.q.name == "new" and self.askers[l.q.feature].kind == "num":
                e.counts = repeated(x, n, self.lengths)
            e.effect = shares[l.q.feature] if l.q.of_shares else effect_of_rate(l, x, n, self.lengths) if l.q.rate else effect_of_mean(e, self.lengths)
            out.setdefault(l.q.feature, []).append(e)
        return out

    def replay(self, windows):
        """A fit without a block of the training data and the windows beside it judges that block.
        Answers the blocks, and per window the largest -ln p of one window, and of several."""
        blocks, maxima = [], []
        for b in np.array_split(np.arange(self.K), BLOCKS):
            i = np.setdiff1d(np.arange(self.K), np.arange(b[0] - self.gap, b[-1] + 1 + self.gap))
            others = windows.take(i)
            learned = fit(self.questions, others)
            blocks.append(self.judge(learned, self.expect(learned, others), windows.take(b)))
            M = np.maximum.reduce([e.lnp for of in blocks[-1].values() for e in of])
            maxima.append(np.maximum(np.column_stack([M[:, 0], M[:, 1:].max(1)]), 0))
        return blocks, np.concatenate(maxima)

    def threshold(self, m):
        """The -ln p that quiet windows exceed hazard / PART often: an exponential tail over the upper fifth of the replay,
        drawn to what theory says of so many questions."""
        u, n = np.log(5 * len(self.questions)), len(m)
        r = np.quantile(m, 0.8)
        over = m[m > r] - r
        mean_excess = max(LEAST, (PSEUDO + over.sum()) / (PSEUDO + len(over)))
        return (n * r + PSEUDO * u) / (n + PSEUDO) + mean_excess * max(0.0, np.log(0.2 * PART / self.hazard))

    def set_thresholds(self):
        """If k of K exchangeable windows exceed, so will (k + 1) / (K + 1) of the next: limits rise until that is allowed."""
        self.tail = np.array([self.threshold(m) for m in self.maxima.T])
        self.c = self.tail.copy()
        allowed = max(0.0, self.hazard * self.K - 1)
        for i in (0, 1):
            while self.c[i] < 60:
                alone = np.where(np.arange(2) == i, self.c, np.inf)
                if sum(self.decide(b, *alone)[0].any(1).sum() for b in self.blocks) <= allowed:
                    break
                self.c[i] += 0.5

    def decide(self, judged, one, several):
        T = len(next(iter(judged.values()))[0].lnp)
        D, begins = np.zeros((T, self.J), bool), []
        limit = np.where(np.array(self.lengths) == 1, one, several + LONG * np.log(self.lengths))
        for j, of in judged.items():
            excess = np.stack([np.where((e.effect > EFFECT[e.name]) & e.counts, e.lnp - limit, -np.inf) for e in of])
            if excess.max() > 0:
                D[:, j], begun = walk(excess, of, self.lengths)
                begins += [(t, j, of[q].name, L) for t, q, L in begun]
        return D, sorted(begins)

    def run(self, st, K=None):
        self.live = self.judge(self.learned, self.expected, self.windows(st, slice(self.K if K is None else K, len(st.rows))))
        D, self.begins = self.decide(self.live, *self.c)
        return D
