"""The equations of TCC in slow float64 numpy, written from METHOD.md alone: what `tcc_fast` is measured against.

One function per equation, one loop per sum, one name per symbol. Nothing here is fast, clever or stable on purpose,
and nothing imports `tcc_fast`. The symbols: f (B, d), mu (K, d), pi and c (B, K), r (K, d), e (B, d), P (L, d),
Q (J, d); a hat marks the momentum network. `written_P` and `written_Q` list the queue entries that exist: an entry
that was never written is no negative.
"""

import math

import numpy as np


def dot(a, b):
    """aᵀb, summed by hand."""
    total = 0.0
    for a_i, b_i in zip(a, b, strict=True):
        total += float(a_i) * float(b_i)
    return total


def unit(v):
    """v / ‖v‖₂."""
    return np.array([v_i / math.sqrt(dot(v, v)) for v_i in v], dtype=np.float64)


def assignment(f, mu):
    """(3): π_i(k) = exp(μ_kᵀ f_i) / Σ_k' exp(μ_k'ᵀ f_i)."""
    B, K = len(f), len(mu)
    pi = np.zeros((B, K))
    for i in range(B):
        Z = sum(math.exp(dot(mu[k], f[i])) for k in range(K))
        for k in range(K):
            pi[i, k] = math.exp(dot(mu[k], f[i])) / Z
    return pi


def cluster_representation(pi, f):
    """(4): r_k = Σ_i π_i(k) f_i, divided by its L2 norm."""
    (B, K), d = pi.shape, f.shape[1]
    r = np.zeros((K, d))
    for k in range(K):
        for i in range(B):
            r[k] += pi[i, k] * f[i]
        r[k] = unit(r[k])
    return r


def cluster_loss(r, r_hat, P, tau, written_P=None):
    """(5): L1 = −(1/K) Σ_k log [ exp(r̂_kᵀr_k/τ) / (exp(r̂_kᵀr_k/τ) + Σ_l exp(p_lᵀr_k/τ) 1(l mod K ≠ k)) ]."""
    K, L = len(r), len(P)
    written_P = range(L) if written_P is None else written_P
    L1 = 0.0
    for k in range(K):
        positive = math.exp(dot(r_hat[k], r[k]) / tau)
        negatives = 0.0
        for l in written_P:  # noqa: E741 (the equation's symbol)
            if l % K != k:
                negatives += math.exp(dot(P[l], r[k]) / tau)
        L1 -= math.log(positive / (positive + negatives)) / K
    return L1


def gumbel_softmax(pi, epsilon, lam):
    """c_i(k) = softmax over k of (log π_i(k) + ε_i(k)) / λ."""
    B, K = pi.shape
    c = np.zeros((B, K))
    for i in range(B):
        weight = [math.exp((math.log(pi[i, k]) + epsilon[i, k]) / lam) for k in range(K)]
        for k in range(K):
            c[i, k] = weight[k] / sum(weight)
    return c


def instance_representation(f, c, W, b):
    """(7): e_i = (f_i + NN(c_i)) / ‖f_i + NN(c_i)‖ with NN(c) = W c + b, W (d, K)."""
    B, d = f.shape
    e = np.zeros((B, d))
    for i in range(B):
        e[i] = unit([f[i, m] + dot(W[m], c[i]) + b[m] for m in range(d)])
    return e


def instance_log_likelihood(e, e_hat, Q, tau, written_Q=None):
    """(7): log p(i | x, c) = log [ exp(êᵀe/τ) / (exp(êᵀe/τ) + Σ_j exp(q_jᵀe/τ)) ], one value per image."""
    B, J = len(e), len(Q)
    written_Q = range(J) if written_Q is None else written_Q
    log_p = np.zeros(B)
    for i in range(B):
        positive = math.exp(dot(e_hat[i], e[i]) / tau)
        negatives = 0.0
        for j in written_Q:
            negatives += math.exp(dot(Q[j], e[i]) / tau)
        log_p[i] = math.log(positive / (positive + negatives))
    return log_p


def entropy(pi):
    """H(π_i) = −Σ_k π_i(k) log π_i(k), with 0 log 0 = 0; one value per image."""
    B, K = pi.shape
    H = np.zeros(B)
    for i in range(B):
        for k in range(K):
            if pi[i, k] > 0:
                H[i] -= pi[i, k] * math.log(pi[i, k])
    return H


def kl_to_uniform(pi):
    """(6): KL(π_i ‖ uniform) = log K − H(π_i), one value per image."""
    K = pi.shape[1]
    return math.log(K) - entropy(pi)


def instance_loss(e, e_hat, pi, Q, tau, written_Q=None):
    """(8): L2 = mean over i of [ −log p(i | x_i, c_i) + log K − H(π_i) ]."""
    B = len(e)
    log_p = instance_log_likelihood(e, e_hat, Q, tau, written_Q)
    kl = kl_to_uniform(pi)
    L2 = 0.0
    for i in range(B):
        L2 += (-log_p[i] + kl[i]) / B
    return L2


def total_loss(L1, L2, alpha):
    """(9): L = α L1 + (1 − α) L2."""
    return alpha * L1 + (1 - alpha) * L2


def moving_average(theta_hat, theta, m):
    """Algorithm 1, last line: θ̂ ← m θ̂ + (1 − m) θ, elementwise."""
    out = np.zeros_like(theta_hat)
    for position in np.ndindex(*theta_hat.shape):
        out[position] = m * theta_hat[position] + (1 - m) * theta[position]
    return out


def central_difference(function, x, step=1e-6):
    """dfunction/dx of a scalar function of one array, one coordinate at a time."""
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for position in np.ndindex(*x.shape):
        above, below = x.copy(), x.copy()
        above[position] += step
        below[position] -= step
        gradient[position] = (function(above) - function(below)) / (2 * step)
    return gradient
