"""The equations of TCC in slow float64 numpy, written from the paper alone: what `tcc_fast` is measured against.

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
    for a_i, b_i in zip(a.tolist(), b.tolist(), strict=True):
        total += a_i * b_i
    return total


def unit(v):
    """v / ‖v‖₂."""
    norm = math.sqrt(dot(v, v))
    return np.array([v_i / norm for v_i in v.tolist()])


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
        e[i] = unit(np.array([f[i, m] + dot(W[m], c[i]) + b[m] for m in range(d)]))
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


def balanced_assignment(scores, iterations=3):
    """Sinkhorn's algorithm: an addition (SwAV), not an equation of the paper."""
    Q = [[math.exp(score) for score in row] for row in scores]
    B, K = len(Q), len(Q[0])
    Q = [[q / sum(row) for q in row] for row in Q]
    for _ in range(iterations):
        columns = [sum(Q[i][k] for i in range(B)) for k in range(K)]
        Q = [[Q[i][k] / columns[k] for k in range(K)] for i in range(B)]
        Q = [[q / sum(row) for q in row] for row in Q]
    return np.array(Q)


def neighbours_mean(pi, f, neighbours):
    """Mean of pi over each row's nearest rows of f by cosine, itself among them (addition)."""
    f = [unit(row) for row in f]
    means = []
    for i in range(len(f)):
        nearest = sorted(range(len(f)), key=lambda j: -dot(f[i], f[j]))[:neighbours]
        means.append([sum(pi[j][k] for j in nearest) / len(nearest) for k in range(len(pi[0]))])
    return means


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


class Algorithm1:
    """Algorithm 1 on a two-layer tanh encoder, with gradients by central differences: nothing is differentiated.

    theta and theta_hat are dicts of float64 arrays: W1, b1, W2, b2 (encoder), mu (K, d), W (d, K) and b (NN).
    The switches are those of the settings' own descriptions; the defaults are the literal method.
    """

    def __init__(
        self,
        theta,
        L,
        J,
        *,
        lr,
        m,
        tau=1.0,
        tau_cluster=None,
        lam=0.3,
        alpha=0.5,
        kl_weight=1.0,
        normalize_features=True,
        normalize_prototypes=True,
        assignment_temperature=1.0,
        feature_batch_norm=False,
        condition_on_cluster=True,
        use_P=True,
        cluster_track=True,
        symmetric=False,
    ):
        self.theta = {name: np.array(value, dtype=np.float64) for name, value in theta.items()}
        self.theta_hat = {name: value.copy() for name, value in self.theta.items()}  # θ̂ = θ at the start
        d = len(theta["b2"])
        self.P, self.taken_by_P = np.zeros((L, d)), 0
        self.Q, self.taken_by_Q = np.zeros((J, d)), 0
        self.lr, self.m, self.tau, self.tau_cluster = lr, m, tau, tau_cluster or tau
        self.lam, self.alpha, self.kl_weight = lam, alpha, kl_weight
        self.normalize_features, self.normalize_prototypes = normalize_features, normalize_prototypes
        self.assignment_temperature, self.feature_batch_norm = assignment_temperature, feature_batch_norm
        self.condition_on_cluster, self.use_P = condition_on_cluster, use_P
        self.cluster_track, self.symmetric = cluster_track, symmetric

    def network(self, theta, x, epsilon):
        """f, π and e of one view; epsilon None means c = π."""
        hidden = np.array(
            [[math.tanh(dot(w, x_i) + b) for w, b in zip(theta["W1"], theta["b1"], strict=True)] for x_i in x]
        )
        f = np.array([[dot(w, h_i) + b for w, b in zip(theta["W2"], theta["b2"], strict=True)] for h_i in hidden])
        if self.feature_batch_norm:
            mean = sum(f_i for f_i in f) / len(f)
            variance = sum((f_i - mean) ** 2 for f_i in f) / len(f)
            f = np.array([(f_i - mean) / np.sqrt(variance + 1e-5) for f_i in f])
        if self.normalize_features:
            f = np.array([unit(f_i) for f_i in f])
        mu = np.array([unit(mu_k) for mu_k in theta["mu"]]) if self.normalize_prototypes else theta["mu"]
        pi = assignment(f, mu / self.assignment_temperature)
        if not (self.condition_on_cluster and self.cluster_track):
            return f, pi, np.array([unit(f_i) for f_i in f])
        c = pi if epsilon is None else gumbel_softmax(pi, epsilon, self.lam)
        return f, pi, instance_representation(f, c, theta["W"], theta["b"])

    def loss(self, theta, x, epsilon, r_hat, e_hat):
        """(9) of one view against the keys of the other."""
        f, pi, e = self.network(theta, x, epsilon)
        written_Q = range(min(self.taken_by_Q, len(self.Q)))
        log_p = instance_log_likelihood(e, e_hat, self.Q, self.tau, written_Q)
        if not self.cluster_track:
            return -sum(log_p) / len(log_p)
        r = cluster_representation(pi, f)
        if self.use_P:
            L1 = cluster_loss(r, r_hat, self.P, self.tau_cluster, range(min(self.taken_by_P, len(self.P))))
        else:
            L1 = cluster_loss(r, r_hat, r_hat, self.tau_cluster)
        L2 = sum(-log_p + self.kl_weight * kl_to_uniform(pi)) / len(log_p)
        return total_loss(L1, L2, self.alpha)

    def step(self, x_1, x_2, epsilons):
        """One step on two views; epsilons: the draws of θ and θ̂, then the same of the mirrored direction."""
        directions = []
        for x, other, epsilon, epsilon_hat in [(x_1, x_2, *epsilons[:2]), (x_2, x_1, *epsilons[2:])]:
            f_hat, pi_hat, e_hat = self.network(self.theta_hat, other, epsilon_hat)
            directions.append((x, epsilon, cluster_representation(pi_hat, f_hat), e_hat))
        used = directions if self.symmetric else directions[:1]

        def objective(theta):
            return sum(self.loss(theta, *direction) for direction in used) / len(used)

        value = objective(self.theta)
        gradient = {
            name: central_difference(lambda x, name=name: objective(self.theta | {name: x}), self.theta[name])
            for name in self.theta
        }
        for name in self.theta:
            self.theta[name] = self.theta[name] - self.lr * gradient[name]  # SGD
        _, _, r_hat, e_hat = directions[0]
        if self.cluster_track:
            for r_hat_k in r_hat:
                self.P[self.taken_by_P % len(self.P)] = r_hat_k
                self.taken_by_P += 1
        for e_hat_i in e_hat:
            self.Q[self.taken_by_Q % len(self.Q)] = e_hat_i
            self.taken_by_Q += 1
        for name in self.theta:
            self.theta_hat[name] = moving_average(self.theta_hat[name], self.theta[name], self.m)
        return value
