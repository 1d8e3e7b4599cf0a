"""What torch's CUDA kernels for batch norm over several processes compute, in plain tensor work for any device."""

import torch


def _shape(x, values):
    return values.view([-1 if dim == 1 else 1 for dim in range(x.ndim)])


def _others(x):
    return [dim for dim in range(x.ndim) if dim != 1]


def batch_norm_stats(x, eps):
    return x.mean(dim=_others(x)), torch.rsqrt(x.var(dim=_others(x), correction=0) + eps)


def batch_norm_gather_stats_with_counts(x, means, scales, running_mean, running_var, momentum, eps, counts):
    weights = (counts / counts.sum()).unsqueeze(1)
    mean = (weights * means).sum(dim=0)
    variance = (weights * (scales**-2 - eps + (means - mean) ** 2)).sum(dim=0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * counts.sum() / (counts.sum() - 1), momentum)
    return mean, torch.rsqrt(variance + eps)


def batch_norm_elemt(x, weight, bias, mean, scale, eps):
    made = (x - _shape(x, mean)) * _shape(x, scale)
    return made if weight is None else made * _shape(x, weight) + _shape(x, bias)


def batch_norm_backward_reduce(gradient, x, mean, scale, weight, of_input, of_weight, of_bias):
    total, product = gradient.sum(dim=_others(x)), (gradient * (x - _shape(x, mean))).sum(dim=_others(x))
    return total, product, product * scale if of_weight else None, total if of_bias else None


def batch_norm_backward_elemt(gradient, x, mean, scale, weight, total, product, counts):
    count = counts.sum()
    centred = (x - _shape(x, mean)) * _shape(x, scale**2 * product / count)
    return (gradient - _shape(x, total / count) - centred) * _shape(x, scale if weight is None else scale * weight)
