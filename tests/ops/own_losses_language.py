"""Losses of language, speech and reading, written as people write them. ``own_losses`` says what they are for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.ops.own_losses import SOME, Case, Inputs, own_loss, refused, spoiled

# --- masked tokens ------------------------------------------------------------------------------------------------------


def _hidden(case: Case) -> Inputs:
    masked = case.mask(2, 6, density=0.3)
    labels = torch.where(masked, case.whole(7, 2, 6), -100)
    return (spoiled(case.normal(2, 6, 8), masked), case.normal(7, 8), case.normal(7)), (labels,)


@own_loss(_hidden)
def masked_language_model(hidden, weight, bias, labels):
    """Devlin et al., BERT, 2019: the head sees the masked places alone."""
    places = torch.nonzero(labels.view(-1) != -100).squeeze(1)
    rows = hidden.view(-1, hidden.size(-1))[places]
    scores = F.linear(F.gelu(F.layer_norm(rows, (8,))), weight, bias)
    return nn.CrossEntropyLoss()(scores, labels.view(-1)[places])


@own_loss(_hidden)
def masked_language_model_by_index_select(hidden, weight, bias, labels):
    """Liu et al., RoBERTa, 2019: the rows are picked by index_select and unpacked from the places."""
    (places,) = torch.where(labels.flatten().ne(-100))
    rows = hidden.flatten(0, 1).index_select(0, places)
    scores = rows @ weight.t() + bias
    targets = labels.flatten().index_select(0, places)
    log_p = torch.log_softmax(scores, -1)
    return -log_p.gather(1, targets.view(-1, 1)).sum() / (places.numel() + 1e-6)


@own_loss(_hidden)
def masked_language_model_by_masked_select(hidden, weight, bias, labels):
    """Song et al., MASS, 2019: every logit where the label is known, and rows again by view."""
    known = labels != -100
    rows = hidden.masked_select(known.unsqueeze(-1)).view(-1, 8)
    return F.cross_entropy(F.linear(torch.tanh(rows), weight, bias), labels.masked_select(known))


def _discriminator(case: Case) -> Inputs:
    attention = case.mask(2, 6, density=0.7)
    return (spoiled(case.normal(2, 6), attention),), (attention.long(), case.whole(2, 2, 6))


@own_loss(_discriminator)
def replaced_token_detection(logits, attention, replaced):
    """Clark et al., ELECTRA, 2020: was the token replaced, for tokens that are no padding."""
    active = attention.view(-1, logits.shape[1]) == 1
    active_logits = logits.view(-1, logits.shape[1])[active]
    active_labels = replaced[active]
    return nn.BCEWithLogitsLoss()(active_logits, active_labels.double())


def _tokens(case: Case) -> Inputs:
    real = case.mask(2, 6, density=0.7)
    return (spoiled(case.normal(2, 6, 5), real),), (real.long(), case.whole(5, 2, 6))


@own_loss(_tokens)
def token_classification(logits, attention, labels):
    """Devlin et al., BERT, 2019: named entities, on the active part of the loss."""
    active = attention.view(-1) == 1
    active_logits = logits.view(-1, 5)[active]
    active_labels = labels.view(-1)[active]
    right = (active_logits.argmax(-1) == active_labels).double().sum() / active.sum().clamp(min=1)
    return nn.CrossEntropyLoss()(active_logits, active_labels), right


def _spans(case: Case) -> Inputs:
    answerable = case.mask(6)
    ends = torch.where(answerable.unsqueeze(1), case.whole(8, 6, 2), -1)
    return (spoiled(case.normal(6, 8), answerable), spoiled(case.normal(6, 8), answerable), case.normal(6)), (ends,)


@own_loss(_spans)
def span_selection(start, end, null, ends):
    """Rajpurkar et al., Know What You Don't Know: Unanswerable Questions for SQuAD, 2018."""
    answerable = (ends >= 0).all(dim=1)
    first, last = ends[answerable].unbind(dim=1)
    loss = F.cross_entropy(start[answerable], first) + F.cross_entropy(end[answerable], last)
    return loss / 2, F.binary_cross_entropy_with_logits(null, (~answerable).to(null.dtype))


def _translations(case: Case) -> Inputs:
    real = case.mask(3, 5, density=0.7)
    return (spoiled(case.normal(3, 5, 6), real),), (case.classes(real, 6, 0),)


@own_loss(_translations)
def smoothed_labels(logits, target):
    """Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016, as translation models use it."""
    real = target.ne(0)
    log_p = logits[real].log_softmax(dim=-1)
    target = target[real].unsqueeze(-1)
    nll = -log_p.gather(dim=-1, index=target)
    smooth = -log_p.sum(dim=-1, keepdim=True)
    each = 0.1 / (log_p.size(-1) - 1)
    return ((1.0 - 0.1 - each) * nll.sum() + each * smooth.sum()) / real.sum().clamp(min=1)


@own_loss(_translations)
def unlikelihood(logits, target):
    """Welleck et al., Neural Text Generation with Unlikelihood Training, 2020: what was said before is unlikely to come again."""
    where = torch.nonzero(target != 0, as_tuple=True)
    log_p = logits[where].log_softmax(-1)
    before = F.one_hot(target, 6).cumsum(dim=1)[where] > 0
    before = before & (F.one_hot(target[where], 6) == 0) & (torch.arange(6) != 0)
    one_minus_p = torch.clamp(1.0 - log_p.exp(), min=1e-5)
    return F.nll_loss(log_p, target[where], reduction="sum"), -(torch.log(one_minus_p) * before).sum()


def _students(case: Case) -> Inputs:
    real = case.mask(2, 5, density=0.7)
    students = (spoiled(case.normal(2, 5, 6), real), spoiled(case.normal(2, 5, 4), real))
    return students, (spoiled(case.normal(2, 5, 6), real), spoiled(case.normal(2, 5, 4), real), real)


@own_loss(_students)
def distillation(student, student_hidden, teacher, teacher_hidden, real):
    """Sanh et al., DistilBERT, 2019: logits and the direction of hidden states, at real tokens."""
    wide = real.unsqueeze(-1).expand_as(student)
    ours = torch.masked_select(student, wide).view(-1, student.size(-1))
    goal = torch.masked_select(teacher, wide).view(-1, teacher.size(-1))
    soft = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(ours / 2, dim=-1), F.softmax(goal / 2, dim=-1)) * 4

    ours, goal = student_hidden[real], teacher_hidden[real]
    same = ours.new_ones(ours.size(0))
    return soft, nn.CosineEmbeddingLoss(reduction="mean")(ours, goal, same)


@own_loss(_students)
def distillation_by_rows(student, student_hidden, teacher, teacher_hidden, real):
    """Hinton et al., Distilling the Knowledge in a Neural Network, 2015, at real tokens."""
    ours, goal = student[real], teacher[real]
    soft = F.kl_div((ours / 2).log_softmax(1), (goal / 2).softmax(1), reduction="batchmean") * 4
    mse = nn.MSELoss()(F.normalize(student_hidden[real], dim=-1), F.normalize(teacher_hidden[real], dim=-1))
    return soft, F.cosine_embedding_loss(
        student_hidden[real], teacher_hidden[real], torch.ones_like(student_hidden[real][:, 0])
    ) + mse


@own_loss(_students)
def consistent_dropout(student, student_hidden, teacher, teacher_hidden, real):
    """Liang et al., R-Drop, 2021: two passes agree, by the divergence both ways."""
    p, q = F.log_softmax(student[real], dim=-1), F.log_softmax(teacher[real], dim=-1)
    one = F.kl_div(p, q, reduction="none", log_target=True).sum()
    other = F.kl_div(q, p, reduction="none", log_target=True).sum()
    return (one + other) / 2


# --- reading and speech -------------------------------------------------------------------------------------------------


def _characters(case: Case) -> Inputs:
    real = case.mask(3, 5, density=0.6)
    if case.kind == "random":  # words have their padding behind
        real = torch.arange(5) < torch.tensor([[3], [5], [1]])
    return (spoiled(case.normal(3, 5, 6), real),), (case.classes(real, 6, 0),)


@own_loss(_characters)
def attention_reader(logits, text):
    """Shi et al., ASTER: An Attentional Scene Text Recognizer, 2018: characters up to the end of each word, summed per word."""
    word, place = torch.nonzero(text).T
    loss = F.cross_entropy(logits[word, place], text[word, place], reduction="none")
    per_word = torch.zeros(text.size(0), dtype=loss.dtype).index_add_(0, word, loss)
    return (per_word / (text != 0).sum(dim=1).clamp(min=1)).mean()


@own_loss(_characters)
def focal_reader(logits, text):
    """Cheng et al., Focusing Attention: Towards Accurate Text Recognition in Natural Images, 2017, with hard characters only."""
    keep = text > 0
    p = logits[keep].softmax(-1)
    at_target = p.gather(1, text[keep][:, None])[:, 0]
    return -(torch.log(at_target[at_target < 0.9])).sum() / text.shape[0]


def _spectra(case: Case) -> Inputs:
    real = case.mask(2, 6, density=0.7)
    return (spoiled(case.normal(2, 6, 4), real), case.normal(2, 6), spoiled(case.normal(2, 6), real)), (
        real, case.normal(2, 6, 4), case.whole(9, 2, 6)
    )  # fmt: skip


@own_loss(_spectra)
def spectrogram(mel, gate, log_duration, real, mel_target, duration):
    """Ren et al., FastSpeech 2, 2021: spectrogram and durations without the padding."""
    mel_loss = F.l1_loss(mel.masked_select(real.unsqueeze(-1)), mel_target.masked_select(real.unsqueeze(-1)))
    goal = torch.log(duration.double() + 1).masked_select(real)
    return mel_loss, nn.MSELoss()(log_duration.masked_select(real), goal), F.softplus(gate).mean()


def _frames(case: Case) -> Inputs:
    hidden_frames = case.mask(2, 6)
    return (spoiled(case.normal(2, 6, 4), hidden_frames), case.normal(5, 4)), (hidden_frames, case.whole(5, 2, 6))


@own_loss(_frames)
def hidden_units(features, codewords, hidden_frames, units):
    """Hsu et al., HuBERT, 2021: the unit of each masked frame by its cosine to the codewords."""
    rows = features[hidden_frames]
    cosine = torch.cosine_similarity(rows.unsqueeze(1), codewords.unsqueeze(0), dim=-1) / 0.1
    loss = F.cross_entropy(cosine, units[hidden_frames], reduction="sum")
    return loss, codewords.pow(2).mean() / (hidden_frames.sum() + 1)


@own_loss(_frames)
def contrasted_frames(features, codewords, hidden_frames, units):
    """Baevski et al., wav2vec 2.0, 2020: the true quantised frame among distractors."""
    rows = features[hidden_frames, :]
    candidates = F.normalize(codewords, dim=-1)[units[hidden_frames]]
    positive = (F.normalize(rows, dim=-1) * candidates).sum(-1, keepdim=True)
    negative = F.normalize(rows, dim=-1) @ F.normalize(codewords, dim=-1).T
    logits = torch.cat([positive, negative], dim=1) / 0.1
    return F.cross_entropy(logits, torch.zeros_like(units[hidden_frames]), reduction="sum")


# --- routing, images in text, preferences -------------------------------------------------------------------------------


def _routed(case: Case) -> Inputs:
    real = case.mask(2, 6, density=0.7)
    return (spoiled(case.normal(2, 6, 4), real),), (real,)


@own_loss(_routed)
def balanced_experts(router, real):
    """Fedus et al., Switch Transformers, 2022: each expert has its share of the real tokens."""
    p = router[real].softmax(dim=-1)
    chosen = F.one_hot(p.argmax(dim=-1), num_classes=4)
    share = chosen.double().mean(dim=0)
    z_loss = torch.logsumexp(router[real], dim=-1).pow(2).mean()
    return 4 * (share * p.mean(dim=0)).sum(), z_loss


def _pictures(case: Case) -> Inputs:
    is_picture = case.mask(2, 5)
    return (case.normal(2, 5, 4), case.normal(10, 4), case.normal(6, 4)), (is_picture, case.whole(6, 2, 5))


@own_loss(_pictures)
def pictures_in_text(embedded, pictures, weight, is_picture, labels):
    """Liu et al., Visual Instruction Tuning, 2023: picture features take the places of their tokens; the text is learned."""
    merged = embedded.masked_scatter(is_picture.unsqueeze(-1), torch.tanh(pictures.view(2, 5, 4)[is_picture]))
    scores = F.linear(torch.cumsum(merged, dim=1), weight)
    text = ~is_picture
    return F.cross_entropy(scores[text], labels[text], reduction="sum") / labels.numel()


def _preferences(case: Case) -> Inputs:
    answer = case.mask(4, 5, density=0.6)
    return (case.normal(4, 5, 6),), (torch.where(answer, case.whole(6, 4, 5), -100), case.normal(4))


@own_loss(_preferences)
def direct_preference(logits, labels, reference):
    """Rafailov et al., Direct Preference Optimization, 2023: chosen and rejected answers by the sums of their tokens."""
    answer = labels != -100
    labels = labels.clone()
    labels[~answer] = 0
    each = torch.gather(logits.log_softmax(-1), dim=2, index=labels.unsqueeze(2)).squeeze(2)
    which = torch.nonzero(answer)[:, 0]
    margin = each.new_zeros(4).index_add(0, which, each[answer]) - reference
    return -F.logsigmoid(0.1 * (margin[:2] - margin[2:])).mean()


def _rollouts(case: Case) -> Inputs:
    real = case.mask(3, 5, density=0.7)
    predicted = (
        spoiled(case.normal(3, 5) * 0.1 - 1, real),
        spoiled(case.normal(3, 5), real),
        spoiled(case.normal(3, 5, 4), real),
    )
    given = (case.normal(3, 5) * 0.1 - 1, case.normal(3, 5), case.normal(3, 5), case.normal(3, 5))
    return predicted, (real, *given)


@own_loss(_rollouts, SOME)
def clipped_policy(log_p, values, logits, real, old_log_p, old_values, advantage, returns):
    """Schulman et al., Proximal Policy Optimization Algorithms, 2017: whitened over the real tokens, clipped both ways."""
    log_p, old_log_p, advantage = log_p[real], old_log_p[real], advantage[real]
    advantage = (advantage - advantage.mean()) / (advantage.std(unbiased=False) + 1e-8)
    ratio = torch.exp(log_p - old_log_p)
    policy_loss = torch.max(-advantage * ratio, -advantage * torch.clamp(ratio, 0.8, 1.2)).mean()

    values, old_values, returns = values[real], old_values[real], returns[real]
    clipped = old_values + (values - old_values).clamp(-0.2, 0.2)
    value_loss = 0.5 * torch.max((values - returns) ** 2, (clipped - returns) ** 2).mean()
    p = logits[real].softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean()
    return policy_loss, value_loss, -0.01 * entropy


@refused(_preferences, line="if not answer_rows.shape[0]:", rewritten="direct_preference")
def supervised_answers_or_nothing(logits, labels, reference):
    """Ouyang et al., Training Language Models to Follow Instructions with Human Feedback, 2022: the answer's tokens alone."""
    answer_rows = logits[labels != -100]
    if not answer_rows.shape[0]:
        return 0 * logits.sum()
    return F.cross_entropy(answer_rows, labels[labels != -100])
