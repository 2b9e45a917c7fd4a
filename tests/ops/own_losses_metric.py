"""Losses of embeddings, survival, ranking, tables and graphs, written as people write them. ``own_losses`` says what for."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.ops.own_losses import SOME, Case, Inputs, own_loss, refused, spoiled

# --- pairs and triplets -------------------------------------------------------------------------------------------------


def _embeddings(case: Case) -> Inputs:
    """Embeddings of two of a kind each, where the mask is, and of one of a kind elsewhere."""
    paired = case.mask(5).repeat_interleave(2)
    label = torch.where(paired, torch.arange(10) // 2, 10 + torch.arange(10))
    return (case.normal(10, 4),), (label, paired)


def _distances(x: Tensor) -> Tensor:
    """Distances of all pairs, with a gradient where two rows are the same."""
    return ((x.unsqueeze(0) - x.unsqueeze(1)).pow(2).sum(-1) + 1e-12).sqrt()


@own_loss(_embeddings)
def nt_xent(x, label, paired):
    """Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020, where some have no partner."""
    z = F.normalize(x, dim=1)
    similarity = z @ z.t() / 0.5
    similarity = similarity.masked_fill(torch.eye(10, dtype=torch.bool), -1e9)
    partner = (label.unsqueeze(0) == label.unsqueeze(1)) & ~torch.eye(10, dtype=torch.bool)
    of_anchor = torch.logsumexp(similarity, dim=1, keepdim=True).expand(10, 10)
    return (of_anchor[partner] - similarity[partner]).mean()


@refused(_embeddings, line="[paired] - similarity[partner]", rewritten="nt_xent")
def nt_xent_of_two_masks(x, label, paired):
    """Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020: masks that happen to agree."""
    z = F.normalize(x, dim=1)
    similarity = (z @ z.t() / 0.5).masked_fill(torch.eye(10, dtype=torch.bool), -1e9)
    partner = (label.unsqueeze(0) == label.unsqueeze(1)) & ~torch.eye(10, dtype=torch.bool)
    return (torch.logsumexp(similarity, dim=1)[paired] - similarity[partner]).mean()


@own_loss(_embeddings)
def supervised_contrastive(x, label, paired):
    """Khosla et al., Supervised Contrastive Learning, 2020: anchors without a positive are left out."""
    z = F.normalize(x, dim=1)
    logits = z @ z.T / 0.1
    logits = logits - logits.max(dim=1, keepdim=True)[0].detach()
    others = ~torch.eye(10, dtype=torch.bool)
    positive = (label.view(-1, 1) == label) & others
    log_p = logits - torch.log((logits.exp() * others).sum(1, keepdim=True))
    has_positive = positive.sum(1) > 0
    mean = (positive * log_p).sum(1)[has_positive] / positive.sum(1)[has_positive]
    return -(0.1 / 0.07) * mean.mean()


def _labelled_pairs(case: Case) -> Inputs:
    return (case.normal(9, 4), case.normal(9, 4)), (case.mask(9).long(),)


@own_loss(_labelled_pairs, ("random", "single"))
def online_contrastive(a, b, same):
    """Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping, 2006, on the hard pairs alone."""
    distance = 1 - F.cosine_similarity(a, b)
    apart, together = distance[same == 0], distance[same == 1]
    hard_negative = apart[apart < together.max()]
    hard_positive = together[together > apart.min()]
    return hard_positive.pow(2).sum() + F.relu(0.5 - hard_negative).pow(2).sum()


@refused(_labelled_pairs, line="if len(together) > 1 else", rewritten="online_contrastive")
def online_contrastive_with_a_branch(a, b, same):
    """Reimers and Gurevych, Sentence-BERT, 2019: hard pairs, with a fallback for want of positives."""
    distance = 1 - F.cosine_similarity(a, b)
    apart, together = distance[same == 0], distance[same == 1]
    hard_negative = apart[apart < (together.max() if len(together) > 1 else apart.mean())]
    return together.pow(2).sum() + F.relu(0.5 - hard_negative).pow(2).sum()


@own_loss(_embeddings)
def batch_hard_triplets(x, label, paired):
    """Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, 2017: batch hard."""
    distance = _distances(x)
    alike = label.unsqueeze(0) == label.unsqueeze(1)
    furthest = distance.masked_fill(~alike, 0.0).max(dim=1)[0]
    nearest = distance.masked_fill(alike, 1e6).min(dim=1).values
    anchors = torch.nonzero(paired, as_tuple=False).squeeze(1)
    same = torch.ones_like(nearest[anchors])
    return nn.MarginRankingLoss(margin=0.3)(nearest[anchors], furthest[anchors], same), F.softplus(
        (furthest - nearest)[paired]
    ).sum()


@own_loss(_embeddings)
def batch_all_triplets(x, label, paired):
    """Schroff et al., FaceNet, 2015: all triplets, the mean over those that are violated."""
    distance = _distances(F.normalize(x, dim=1))
    alike = (label.unsqueeze(0) == label.unsqueeze(1)) & ~torch.eye(10, dtype=torch.bool)
    other = label.unsqueeze(0) != label.unsqueeze(1)
    anchor, positive, negative = torch.where(alike.unsqueeze(2) & other.unsqueeze(1))
    triplet = F.relu(distance[anchor, positive] - distance[anchor, negative] + 0.2)
    violated = triplet[triplet > 1e-16]
    return violated.sum() / (violated.shape[0] + 1e-16)


@own_loss(_embeddings)
def triplets_by_module(x, label, paired):
    """Weinberger and Saul, Distance Metric Learning for Large Margin Nearest Neighbor Classification, 2009."""
    alike = (label.unsqueeze(0) == label.unsqueeze(1)) & ~torch.eye(10, dtype=torch.bool)
    anchor, positive = torch.nonzero(alike, as_tuple=True)
    negative = (anchor + 5) % 10
    return nn.TripletMarginLoss(margin=1.0)(x[anchor], x[positive], x[negative]) + 0.1 * x[anchor].norm(dim=1).sum()


@own_loss(_embeddings, SOME)
def multi_similarity(x, label, paired):
    """Wang et al., Multi-Similarity Loss with General Pair Weighting, 2019: pairs are mined anchor by anchor."""
    z = F.normalize(x, dim=1)
    similarity = z @ z.t()
    loss = []
    for i in range(3):
        alike = similarity[i][label == label[i]]
        other = similarity[i][label != label[i]]
        negative = other[other + 0.1 > alike.min()]
        positive = alike[alike - 0.1 < other.max()]
        near = 1 / 2.0 * torch.log(1 + torch.sum(torch.exp(-2.0 * (positive - 0.5))))
        far = 1 / 40.0 * torch.log(1 + torch.sum(torch.exp(40.0 * (negative - 0.5))))
        loss.append(near + far)
    return sum(loss) / len(loss)


@refused(_embeddings, line="if len(negative) < 1 or len(positive) < 1:", rewritten="multi_similarity")
def multi_similarity_with_continue(x, label, paired):
    """Wang et al., Multi-Similarity Loss with General Pair Weighting, 2019: anchors without pairs are passed over."""
    similarity = F.normalize(x, dim=1) @ F.normalize(x, dim=1).t()
    loss = x.new_zeros(())
    for i in range(3):
        positive = similarity[i][label == label[i]]
        negative = similarity[i][label != label[i]]
        if len(negative) < 1 or len(positive) < 1:
            continue
        loss = loss + torch.log(1 + torch.exp(-2.0 * positive).sum()) + torch.log(1 + torch.exp(40.0 * negative).sum())
    return loss


@own_loss(_embeddings)
def lifted_structure(x, label, paired):
    """Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, 2016: each positive pair against all others."""
    distance = _distances(x)
    alike = torch.triu(label.unsqueeze(0) == label.unsqueeze(1), diagonal=1)
    negative = torch.where(label.unsqueeze(0) != label.unsqueeze(1), torch.exp(1.0 - distance), 0.0).sum(1)
    i, j = alike.nonzero().t()
    loss = torch.log(negative[i] + negative[j]) + distance[i, j]
    return F.relu(loss).pow(2).sum() / (2 * len(i) + 1)


# --- proxies and classes ------------------------------------------------------------------------------------------------


def _proxies(case: Case) -> Inputs:
    present = case.mask(5)
    chosen = present.double() + 1e-9 if case.kind != "empty" else torch.ones(5, dtype=torch.float64)
    label = torch.multinomial(chosen, 8, replacement=True, generator=case.generator)
    return (case.normal(8, 4), case.normal(5, 4)), (label,)


@own_loss(_proxies)
def proxy_anchor(x, proxies, label):
    """Kim et al., Proxy Anchor Loss for Deep Metric Learning, 2020: classes of the batch attract, all repel."""
    cosine = F.linear(F.normalize(x), F.normalize(proxies))
    one_hot = F.one_hot(label, 5)
    pull = torch.where(one_hot == 1, torch.exp(-8 * (cosine - 0.1)), 0.0).sum(dim=0)
    push = torch.where(one_hot == 0, torch.exp(8 * (cosine + 0.1)), 0.0).sum(dim=0)
    with_positives = torch.nonzero(one_hot.sum(dim=0) != 0).squeeze(dim=1)
    return torch.log(1 + pull[with_positives]).sum() / len(with_positives) + torch.log(1 + push).sum() / 5


def _identities(case: Case) -> Inputs:
    known = case.mask(8)
    return (case.normal(8, 4), case.normal(5, 4)), (torch.where(known, case.whole(5, 8), -1),)


@own_loss(_identities)
def additive_angular_margin(x, centres, label):
    """Deng et al., ArcFace, 2019: a label of -1 belongs to another worker and has no margin here."""
    cosine = F.linear(F.normalize(x), F.normalize(centres)).clamp(-0.999, 0.999)
    index = torch.where(label != -1)[0]
    target = cosine[index, label[index]]
    sine = torch.sqrt(1.0 - torch.pow(target, 2))
    with_margin = target * math.cos(0.5) - sine * math.sin(0.5)
    logits = cosine.clone()
    logits[index, label[index]] = torch.where(target > 0, with_margin, target)
    return (torch.logsumexp(8 * logits, dim=1) - 8 * logits[:, 0]).mean() - 8 * logits[index, label[index]].sum() / 8


@own_loss(_identities)
def additive_margin(x, centres, label):
    """Wang et al., CosFace, 2018: the margin is subtracted in place from the true class of each labelled row."""
    cosine = F.linear(F.normalize(x), F.normalize(centres))
    index = torch.nonzero(label != -1).flatten()
    cosine[index] -= 0.35 * F.one_hot(label[index], cosine.size(1)).to(cosine.dtype)
    return F.cross_entropy(8 * cosine[index], label[index], reduction="sum")


@own_loss(_identities)
def centre_loss(x, centres, label):
    """Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, 2016."""
    known = label >= 0
    difference = x[known] - centres[label[known]]
    return 0.5 * difference.pow(2).sum(dim=-1).mean()


# --- agreement without labels -------------------------------------------------------------------------------------------


def _views(case: Case) -> Inputs:
    both = case.mask(8, density=0.6)
    return (spoiled(case.normal(8, 4), both), case.normal(4, 4)), (spoiled(case.normal(8, 4), both), both)


@own_loss(_views)
def bootstrap_your_own_latent(online, predictor, target, both):
    """Grill et al., Bootstrap Your Own Latent, 2020: pixels that both views show."""
    p = F.normalize(F.linear(online[both], predictor), dim=-1)
    z = F.normalize(target[both].detach(), dim=-1)
    return (2 - 2 * (p * z).sum(dim=-1)).mean()


@own_loss(_views)
def simple_siamese(online, predictor, target, both):
    """Chen and He, Exploring Simple Siamese Representation Learning, 2021: normalised by hand, after a shared layer."""
    p = online[both] @ predictor
    p = p / p.norm(dim=1, keepdim=True)
    z = target[both] / torch.sqrt((target[both] ** 2).sum(dim=1, keepdim=True))
    return -(p * z.detach()).sum(dim=1).sum() / 8


@own_loss(_views)
def siamese_distance(online, predictor, target, both):
    """Chopra et al., Learning a Similarity Metric Discriminatively, 2005: both go through one layer; a root of the difference."""
    difference = online[both] @ predictor - target[both] @ predictor
    distance = difference.pow(2).sum(dim=1).sqrt()
    return distance.sum(), torch.relu(2 - distance).pow(2).sum()


def _hyperboloid(case: Case) -> Inputs:
    real = case.mask(7)
    place = case.normal(7, 3)
    points = torch.cat([(1 + place.square().sum(1, keepdim=True)).sqrt(), place], dim=1)
    return (spoiled(points, real), 0.2 * case.normal(3), case.uniform(1, low=1.0, high=2.0)), (real,)


@own_loss(_hyperboloid)
def lorentz_distance(points, anchor, scale, real):
    """Nickel and Kiela, Learning Continuous Hierarchies in the Lorentz Model, 2018: arcosh, which has no value below 1."""
    time = torch.sqrt(1 + anchor.square().sum())
    rows = points[real]
    inner = rows[:, 0] * time - (rows[:, 1:] * anchor).sum(dim=1)
    return (torch.acosh(inner) * scale).sum(), torch.log(scale * rows[:, 0] - 0.999).sum()


@own_loss(_hyperboloid)
def lorentz_distance_by_product(points, anchor, scale, real):
    """Nickel and Kiela, Learning Continuous Hierarchies in the Lorentz Model, 2018, with the metric in a matrix product."""
    time = torch.sqrt(1 + anchor.square().sum(0, keepdim=True))
    distance = torch.acosh(points[real] @ torch.cat([time, -anchor]))
    weight = torch.log(F.linear(points[real], torch.cat([scale, 0 * anchor]).unsqueeze(0)) - 0.999)
    return distance.pow(2).sum(), weight.sum()


@own_loss(_views)
def barlow_twins(online, predictor, target, both):
    """Zbontar et al., Barlow Twins, 2021: the cross-correlation of the rows that both views show."""
    a, b = online[both] @ predictor, target[both]
    a = (a - a.mean(dim=0)) / (a.var(dim=0, correction=0) + 1e-5).sqrt()
    b = (b - b.mean(dim=0)) / (b.var(dim=0, correction=0) + 1e-5).sqrt()
    correlation = a.T @ b / both.sum()
    on_diagonal = torch.diagonal(correlation).add(-1).pow(2).sum()
    return on_diagonal + 0.005 * (correlation.pow(2).sum() - correlation.diagonal().pow(2).sum())


@own_loss(_views, ("random", "full"))
def variance_covariance(online, predictor, target, both):
    """Bardes et al., VICReg, 2022: rows agree, features vary and do not vary together."""
    a, b = online[both], target[both]
    agree = F.mse_loss(a, b)
    a = a - a.mean(dim=0)
    deviation = torch.sqrt(a.var(dim=0) + 1e-4)
    covariance = (a.t() @ a) / (len(a) - 1)
    off_diagonal = covariance[~torch.eye(4, dtype=torch.bool)]
    return 25 * agree, 25 * F.relu(1 - deviation).mean(), off_diagonal.pow(2).sum() / 4


@own_loss(_views)
def vector_quantisation(online, predictor, target, both):
    """Van den Oord et al., Neural Discrete Representation Learning, 2017: commitment of the real frames."""
    x, codebook = online[both], predictor
    distance = x.pow(2).sum(1, keepdim=True) - 2 * x @ codebook.t() + codebook.pow(2).sum(1)
    code = distance.argmin(dim=1)
    quantised = codebook[code]
    commitment = 0.25 * F.mse_loss(quantised.detach(), x) + F.mse_loss(quantised, x.detach())
    through = x + (quantised - x).detach()
    share = F.one_hot(code, 4).to(x.dtype).sum(dim=0) / (both.sum() + 1)
    perplexity = torch.exp(-(share * torch.log(share + 1e-10)).sum())
    return commitment, (through * target[both]).sum(), perplexity


def _unlabelled(case: Case) -> Inputs:
    sure = case.mask(8)
    weak = case.normal(8, 4)
    weak = torch.where(sure.unsqueeze(1), 9 * F.one_hot(case.whole(4, 8), 4).double(), 0.1 * weak)
    return (spoiled(case.normal(8, 4), sure),), (weak,)


@own_loss(_unlabelled)
def fixed_match(strong, weak):
    """Sohn et al., FixMatch, 2020: pseudo-labels of the examples that the model is sure of."""
    best, target = torch.max(torch.softmax(weak.detach(), dim=-1), dim=-1)
    sure = best.ge(0.95)
    return F.cross_entropy(strong[sure], target[sure], reduction="sum") / weak.shape[0]


# --- time, order, quantiles ---------------------------------------------------------------------------------------------


def _survival(case: Case) -> Inputs:
    return (case.normal(10),), (case.uniform(10, high=5.0), case.mask(10).long())


@own_loss(_survival)
def proportional_hazards(risk, time, event):
    """Katzman et al., DeepSurv, 2018: Cox's partial likelihood, over the events."""
    order = torch.argsort(time, descending=True)
    risk, event = risk[order], event[order]
    log_sum = torch.logcumsumexp(risk, dim=0)
    return -(risk - log_sum)[event == 1].mean()


@own_loss(_survival)
def survival_ranks(risk, time, event):
    """Lee et al., DeepHit, 2018: of two, the one with the earlier event has the greater risk."""
    earlier = (time.unsqueeze(1) < time.unsqueeze(0)) & (event == 1).unsqueeze(1)
    i, j = torch.nonzero(earlier).unbind(dim=1)
    return torch.exp((risk[j] - risk[i]) / 0.5).sum() / torch.clamp(earlier.sum(), min=1)


def _relevance(case: Case) -> Inputs:
    real = case.mask(3, 6, density=0.7)
    return (case.normal(3, 6),), (torch.where(real, case.whole(4, 3, 6).double(), -1.0),)


@own_loss(_relevance)
def pairwise_ranks(score, relevance):
    """Burges et al., Learning to Rank using Gradient Descent, 2005: documents of a query, two by two."""
    pair = (relevance.unsqueeze(2) > relevance.unsqueeze(1)) & (relevance.unsqueeze(1) >= 0)
    query, i, j = pair.nonzero(as_tuple=True)
    difference = score[query, i] - score[query, j]
    hinge = torch.clamp(1.0 - difference, min=0)
    return F.binary_cross_entropy_with_logits(
        difference, torch.ones_like(difference), reduction="sum"
    ), hinge.sum() / pair.sum().clamp(min=1)


@own_loss(_relevance)
def listwise_likelihood(score, relevance):
    """Xia et al., Listwise Approach to Learning to Rank, 2008: the likelihood of the true order, without the padding."""
    relevance, order = relevance.sort(descending=True, dim=-1)
    score = torch.gather(score, dim=1, index=order).clone()
    padding = relevance == -1
    score[padding] = -1e9
    best = score.max(dim=1, keepdim=True)[0]
    sums = torch.cumsum((score - best).exp().flip(dims=[1]), dim=1).flip(dims=[1])
    loss = torch.log(sums + 1e-10) - (score - best)
    return loss[~padding].sum() / score.size(0)


def _sequences(case: Case) -> Inputs:
    real = case.mask(3, 5, density=0.7)
    return (spoiled(case.normal(3, 5), real), spoiled(case.normal(3, 5), real)), (real.long() * (1 + case.whole(9, 3, 5)),)


@own_loss(_sequences)
def next_item(positive, negative, item):
    """Kang and McAuley, Self-Attentive Sequential Recommendation, 2018: the next item and one that it is not."""
    indices = torch.where(item != 0)
    loss = nn.BCEWithLogitsLoss()
    total = loss(positive[indices], torch.ones_like(positive[indices]))
    total += loss(negative[indices], torch.zeros_like(negative[indices]))
    return total


@own_loss(_sequences)
def personalised_ranks(positive, negative, item):
    """Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, 2009."""
    return -F.logsigmoid(positive[item > 0] - negative[item > 0]).mean() + 1e-3 * positive[item > 0].square().sum()


def _readings(case: Case) -> Inputs:
    known = case.mask(6, 4, density=0.6)
    return (spoiled(case.normal(6, 4, 3), known),), (torch.where(known, case.normal(6, 4), float("nan")),)


@own_loss(_readings)
def pinball(pred, target):
    """Koenker and Bassett, Regression Quantiles, 1978: labels that are missing are NaN."""
    known = ~torch.isnan(target)
    quantile = torch.tensor([0.1, 0.5, 0.9], dtype=pred.dtype)
    error = target[known].unsqueeze(-1) - pred[known]
    return torch.max(quantile * error, (quantile - 1) * error).sum(dim=-1).mean()


@own_loss(_readings)
def missing_tasks(pred, target):
    """Wu et al., MoleculeNet, 2018: many assays, of which each molecule has been through some."""
    losses = []
    for task in range(4):
        known = torch.isfinite(target[:, task])
        goal = (target[known, task] > 0).to(pred.dtype)
        losses.append(F.binary_cross_entropy_with_logits(pred[known, task, 0], goal, reduction="sum"))
    return torch.stack(losses).mean()


@own_loss(_readings)
def gaussian_likelihood(pred, target):
    """Nix and Weigend, Estimating the Mean and Variance of the Target Probability Distribution, 1994."""
    known = torch.isfinite(target)
    mean, log_var = pred[..., 0][known], pred[..., 1][known]
    nll = nn.GaussianNLLLoss(reduction="sum")(mean, target[known], log_var.exp())
    return nll, F.poisson_nll_loss(log_var, target[known].abs(), reduction="sum")


def _traffic(case: Case) -> Inputs:
    real = case.mask(4, 5, density=0.7)
    return (case.normal(4, 5),), (torch.where(real, case.uniform(4, 5, low=20.0, high=70.0), 0.0),)


@own_loss(_traffic)
def masked_traffic(pred, target):
    """Li et al., Diffusion Convolutional Recurrent Neural Network, 2018: readings of 0 are missing, and NaN is set to 0."""
    mask = (target != 0).to(pred.dtype)
    mask = mask / mask.mean()
    mask[torch.isnan(mask)] = 0.0
    loss = (pred - target).abs() * mask
    return loss[mask > 0].sum() / loss.numel()


# --- graphs and play ----------------------------------------------------------------------------------------------------


def _nodes(case: Case) -> Inputs:
    return (case.normal(8, 4), case.normal(4, 5)), (case.mask(8), case.whole(5, 8), case.whole(8, 2, 14), case.mask(14))


@own_loss(_nodes)
def node_classification(x, weight, train_mask, label, edge_index, edge_mask):
    """Kipf and Welling, Semi-Supervised Classification with Graph Convolutional Networks, 2017: the training nodes alone."""
    out = F.log_softmax(x @ weight, dim=1)
    correct = (out[train_mask].argmax(dim=1) == label[train_mask]).sum() / train_mask.sum().clamp(min=1)
    return F.nll_loss(out[train_mask], label[train_mask]), correct.double()


@own_loss(_nodes)
def message_passing(x, weight, train_mask, label, edge_index, edge_mask):
    """Gilmer et al., Neural Message Passing for Quantum Chemistry, 2017: messages along the edges that were kept."""
    source, target = edge_index[:, edge_mask]
    message = torch.relu(x[source] - x[target])
    received = torch.zeros_like(x).index_put_((target,), message, accumulate=True)
    counted = torch.zeros(8, dtype=x.dtype).scatter_add(0, target, torch.ones_like(message[:, 0]))
    out = (x + received / counted.clamp(min=1).unsqueeze(-1)) @ weight
    return F.cross_entropy(out, label) + x.index_add(0, target, message).pow(2).mean()


@own_loss(_nodes)
def link_prediction(x, weight, train_mask, label, edge_index, edge_mask):
    """Kipf and Welling, Variational Graph Auto-Encoders, 2016: kept edges against dropped ones."""
    z = x @ weight
    kept, dropped = edge_index[:, edge_mask], edge_index[:, ~edge_mask]
    positive = (z[kept[0]] * z[kept[1]]).sum(dim=-1)
    negative = (z[dropped[0]] * z[dropped[1]]).sum(dim=-1)
    scores = torch.cat([positive, negative])
    truth = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)])
    return F.binary_cross_entropy_with_logits(scores, truth)


def _transitions(case: Case) -> Inputs:
    goes_on = case.mask(7)
    return (case.normal(7, 3), case.normal(3, 4)), (
        spoiled(case.normal(7, 3), goes_on),
        goes_on,
        case.whole(4, 7),
        case.normal(7),
    )


@own_loss(_transitions)
def deep_q(state, weight, next_state, goes_on, action, reward):
    """Mnih et al., Human-level Control through Deep Reinforcement Learning, 2015: no value after the end."""
    value = F.linear(torch.tanh(state), weight.t()).gather(1, action.unsqueeze(1))
    next_value = torch.zeros(7, dtype=state.dtype)
    with torch.no_grad():
        next_value[goes_on] = F.linear(torch.tanh(next_state[goes_on]), weight.t()).max(1).values
    return F.smooth_l1_loss(value, (reward + 0.99 * next_value).unsqueeze(1))


def _claims(case: Case) -> Inputs:
    return (case.normal(9),), (case.mask(9).long(),)


@own_loss(_claims)
def positive_unlabelled(score, claim):
    """Kiryo et al., Positive-Unlabeled Learning with Non-Negative Risk Estimator, 2017."""
    positive, unlabelled = score[claim == 1], score[claim == 0]
    risk = 0.3 * torch.sigmoid(-positive).sum() / (claim == 1).sum().clamp(min=1)
    negative_risk = torch.sigmoid(unlabelled).sum() / (claim == 0).sum().clamp(min=1) - 0.3 * torch.sigmoid(
        positive
    ).mean().nan_to_num(0.0)
    return risk + negative_risk.clamp(min=0)


@own_loss(_claims)
def area_under_curve(score, claim):
    """Gao et al., One-Pass AUC Optimization, 2013: each positive against each negative."""
    difference = score.unsqueeze(1) - score.unsqueeze(0)
    pair = (claim == 1).unsqueeze(1) & (claim == 0).unsqueeze(0)
    return (1 - difference[pair]).pow(2).sum() / pair.sum().clamp(min=1)


@own_loss(_claims)
def area_under_curve_by_pairs(score, claim):
    """Gao et al., One-Pass AUC Optimization, 2013, with two selections of different lengths, one across the other."""
    positive, negative = score[claim == 1], score[claim == 0]
    return (1 - (positive.unsqueeze(1) - negative.unsqueeze(0))).pow(2).sum()
