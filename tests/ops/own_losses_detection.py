"""Losses of object detection, written as people write them. ``own_losses`` says what they are for."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torchvision.ops as tv
from torch import Tensor, nn

from tests.ops.own_losses import SOME, Case, Inputs, own_loss, refused, spoiled

# --- anchors ------------------------------------------------------------------------------------------------------------


def _anchors(case: Case) -> Inputs:
    positive = case.mask(2, 12)
    deltas, goal = case.normal(2, 12, 4), case.normal(2, 12, 4)
    return (spoiled(deltas, positive), case.normal(2, 12, 5)), (spoiled(goal, positive), case.classes(positive, 5, 0))


@own_loss(_anchors)
def ssd_multibox(deltas, logits, delta_targets, labels):
    """Liu et al., SSD: Single Shot MultiBox Detector, 2016: three negatives, the hardest, for each positive."""
    positive = labels > 0
    box_loss = F.smooth_l1_loss(deltas[positive], delta_targets[positive], reduction="sum")

    with torch.no_grad():
        hardness = logits.logsumexp(-1) - logits[..., 0]
        hardness[positive] = 0
        rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
        wanted = (3 * positive.sum(dim=1, keepdim=True)).clamp(max=labels.shape[1] - 1)
        negative = (rank < wanted) & ~positive

    chosen = positive | negative
    class_loss = F.cross_entropy(logits[chosen], labels[chosen], reduction="sum")
    count = positive.sum()
    return box_loss / count, class_loss / count


def _focal(case: Case) -> Inputs:
    positive = case.mask(14)
    ignored = (case.uniform(14) < 0.2) & ~positive
    labels = torch.where(ignored, -1, case.classes(positive, 5, 0))
    return (spoiled(case.normal(14, 4), ~ignored), spoiled(case.normal(14, 4), positive)), (labels, case.normal(14, 4))


@own_loss(_focal)
def retinanet_focal(logits, deltas, labels, delta_targets):
    """Lin et al., Focal Loss for Dense Object Detection, 2017."""
    valid = labels >= 0
    positive = torch.nonzero(labels > 0).squeeze(1)
    one_hot = torch.zeros_like(logits)
    one_hot[positive, labels[positive] - 1] = 1
    count = (labels > 0).sum().clamp(min=1)
    class_loss = tv.sigmoid_focal_loss(logits[valid], one_hot[valid], alpha=0.25, gamma=2.0, reduction="sum")
    box_loss = F.l1_loss(deltas[positive], delta_targets[positive], reduction="sum")
    return {"classification": class_loss / count, "boxes": box_loss / count}


def _overlaps(case: Case) -> Inputs:
    positive = case.mask(10)
    iou = torch.where(positive, case.uniform(10, low=0.5), case.uniform(10, high=0.5))
    deltas = spoiled(case.normal(10, 4), positive)
    return (case.uniform(10, 4, low=0.05, high=0.95), deltas), (iou, case.whole(4, 10), case.normal(10, 4))


@own_loss(_overlaps)
def focal_by_hand(scores, deltas, iou, matched_class, delta_targets):
    """Lin et al., Focal Loss for Dense Object Detection, 2017, with the targets written into a table of -1."""
    targets = torch.full_like(scores, -1)
    targets[iou < 0.4, :] = 0
    positive = iou >= 0.5
    targets[positive, :] = 0
    targets[positive, matched_class[positive]] = 1

    alpha = torch.where(targets == 1, 0.25, 0.75)
    wrong = torch.where(targets == 1, 1 - scores, scores)
    entropy = -(targets * scores.log() + (1 - targets) * (1 - scores).log())
    loss = torch.where(targets != -1, alpha * wrong**2 * entropy, 0.0)

    difference = (deltas[positive, :] - delta_targets[positive, :]).abs()
    box_loss = torch.where(difference <= 1 / 9, 4.5 * difference**2, difference - 0.5 / 9)
    return loss.sum() / positive.sum().clamp(min=1), box_loss.sum() / positive.sum().clamp(min=1)


@refused(_overlaps, line="if len(positive) > 0:", rewritten="focal_by_hand")
def focal_with_a_branch(scores, deltas, iou, matched_class, delta_targets):
    """Lin et al., Focal Loss for Dense Object Detection, 2017: no boxes, no box loss."""
    positive = torch.nonzero(iou >= 0.5).squeeze(1)
    if len(positive) > 0:
        return (deltas[positive] - delta_targets[positive]).abs().mean()
    return scores.sum() * 0


def _quality(case: Case) -> Inputs:
    positive = case.mask(12)
    return (case.normal(12, 4),), (torch.where(positive, case.whole(4, 12), 4), case.uniform(12))


@own_loss(_quality)
def quality_focal(logits, labels, quality):
    """Li et al., Generalized Focal Loss, 2020: the quality of the box is the target of its class."""
    scores = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none") * scores**2
    background = logits.size(1)
    pos = ((labels >= 0) & (labels < background)).nonzero().squeeze(1)
    pos_label = labels[pos].long()
    gap = quality[pos] - scores[pos, pos_label]
    entropy = F.binary_cross_entropy_with_logits(logits[pos, pos_label], quality[pos], reduction="none")
    loss[pos, pos_label] = entropy * gap.abs().pow(2)
    return loss.sum(dim=1).mean()


def _distribution(case: Case) -> Inputs:
    positive = case.mask(10)
    return (spoiled(case.normal(10, 4, 8), positive),), (positive, case.uniform(10, 4, high=6.9), case.uniform(10))


@own_loss(_distribution)
def distribution_focal(logits, positive, distance, weight):
    """Li et al., Generalized Focal Loss, 2020: a side of a box lies between two bins."""
    pred = logits[positive].view(-1, 4, 8)
    goal = distance[positive]
    left = goal.long()
    right = left + 1
    weight_left, weight_right = right - goal, goal - left
    log_p = pred.log_softmax(dim=-1)
    at_left = -log_p.gather(-1, left.unsqueeze(-1)).squeeze(-1)
    at_right = -log_p.gather(-1, right.unsqueeze(-1)).squeeze(-1)
    loss = (at_left * weight_left + at_right * weight_right).mean(-1, keepdim=True) * weight[positive].unsqueeze(-1)
    return loss.sum() / weight[positive].sum().clamp(min=1e-6)


@own_loss(_quality, SOME)
def varifocal(logits, labels, overlap):
    """Zhang et al., VarifocalNet, 2021: positives weigh by their overlap, negatives by their score."""
    positive = torch.nonzero(labels < logits.shape[1], as_tuple=True)[0]
    target = torch.zeros_like(logits)
    target[positive, labels[positive]] = overlap[positive]
    weight = torch.where(target > 0, target, 0.75 * logits.detach().sigmoid() ** 2)
    loss = nn.BCEWithLogitsLoss(reduction="none")(logits, target)
    return (loss * weight).sum() / positive.numel()


def _points(case: Case) -> Inputs:
    labels = case.classes(case.mask(12), 4, 0)
    sides = spoiled(case.uniform(12, 4, low=0.2, high=5.0), labels > 0)
    return (sides, spoiled(case.normal(12), labels > 0), case.normal(12, 3)), (labels, case.uniform(12, 4, low=0.2, high=5.0))


def _iou_of_sides(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of boxes around one point, given by the distances to their left, top, right and bottom."""
    common = (torch.min(a[:, 0], b[:, 0]) + torch.min(a[:, 2], b[:, 2])) * (
        torch.min(a[:, 1], b[:, 1]) + torch.min(a[:, 3], b[:, 3])
    )
    area = (a[:, 0] + a[:, 2]) * (a[:, 1] + a[:, 3]) + (b[:, 0] + b[:, 2]) * (b[:, 1] + b[:, 3])
    return (common + 1.0) / (area - common + 1.0)


@own_loss(_points)
def fcos(sides, centerness, logits, labels, side_targets):
    """Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, 2019."""
    positive = torch.nonzero(labels > 0).squeeze(1)
    sides, goal, centerness = sides[positive], side_targets[positive], centerness[positive]
    left_right, top_bottom = goal[:, [0, 2]], goal[:, [1, 3]]
    ratio = (left_right.min(dim=-1)[0] / left_right.max(dim=-1)[0]) * (top_bottom.min(dim=-1)[0] / top_bottom.max(dim=-1)[0])
    weight = torch.sqrt(ratio)
    box_loss = (-torch.log(_iou_of_sides(sides, goal)) * weight).sum() / weight.sum().clamp(min=1e-6)
    center_loss = nn.BCEWithLogitsLoss(reduction="sum")(centerness, weight) / positive.numel()

    one_hot = F.one_hot(labels, 4)[:, 1:].to(logits)
    class_loss = tv.sigmoid_focal_loss(logits, one_hot, reduction="sum") / (labels > 0).sum().clamp(min=1)
    return box_loss, center_loss, class_loss


def _grid(case: Case) -> Inputs:
    has_object = case.mask(2, 4, 4)
    goal = torch.cat([case.uniform(2, 4, 4, 4, low=0.1, high=0.9), has_object.unsqueeze(-1), case.uniform(2, 4, 4, 3)], dim=-1)
    return (case.uniform(2, 4, 4, 8, low=0.1, high=0.9),), (goal,)


@own_loss(_grid)
def yolo_v1(pred, target):
    """Redmon et al., You Only Look Once, 2016: square roots of the sizes, empty cells at half weight."""
    with_object = target[..., 4] > 0
    without = target[..., 4] == 0
    ours, goal = pred[with_object], target[with_object]
    place = F.mse_loss(ours[:, :2], goal[:, :2], reduction="sum")
    size = F.mse_loss(ours[:, 2:4].sqrt(), goal[:, 2:4].sqrt(), reduction="sum")
    sure = F.mse_loss(ours[:, 4], goal[:, 4], reduction="sum")
    unsure = F.mse_loss(pred[without][:, 4], target[without][:, 4], reduction="sum")
    kind = F.mse_loss(ours[:, 5:], goal[:, 5:], reduction="sum")
    return (5 * (place + size) + sure + 0.5 * unsure + kind) / pred.shape[0]


def _anchor_grid(case: Case) -> Inputs:
    object_mask = case.mask(2, 3, 3, 3)
    empty_mask = ~object_mask & (case.uniform(2, 3, 3, 3) < 0.7)
    empty_mask[0, 0, 0, 0] = True  # the mean over none would be NaN, and so say nothing
    return (case.normal(2, 3, 3, 3, 9),), (
        object_mask,
        empty_mask,
        case.uniform(2, 3, 3, 3, 4),
        case.whole(2, 2, 3, 3, 3, 4).double(),
    )


@own_loss(_anchor_grid)
def yolo_v3(pred, object_mask, empty_mask, place, kinds):
    """Redmon and Farhadi, YOLOv3: An Incremental Improvement, 2018: cells that overlap an object a little are left out."""
    mse, bce = nn.MSELoss(), nn.BCELoss()
    x, y = torch.sigmoid(pred[..., 0]), torch.sigmoid(pred[..., 1])
    w, h = pred[..., 2], pred[..., 3]
    sure, scores = torch.sigmoid(pred[..., 4]), torch.sigmoid(pred[..., 5:])
    loss_x = mse(x[object_mask], place[..., 0][object_mask])
    loss_y = mse(y[object_mask], place[..., 1][object_mask])
    loss_w = mse(w[object_mask], place[..., 2][object_mask])
    loss_h = mse(h[object_mask], place[..., 3][object_mask])
    loss_object = bce(sure[object_mask], object_mask.to(sure)[object_mask])
    loss_empty = bce(sure[empty_mask], object_mask.to(sure)[empty_mask])
    loss_class = bce(scores[object_mask], kinds[object_mask])
    return loss_x + loss_y + loss_w + loss_h + loss_object, 100 * loss_empty, loss_class


def _padded_targets(case: Case) -> Inputs:
    real = case.mask(6)
    cells = torch.randperm(2 * 4 * 4, generator=case.generator)[:6]  # no two in one cell: which is written last is open
    image, row, column = cells // 16, cells // 4 % 4, cells % 4
    place = torch.stack([image.double(), case.whole(3, 6).double()], 1)
    middle = torch.stack([column, row], 1) + case.uniform(6, 2, low=0.1, high=0.9)
    targets = torch.cat([place, middle, case.uniform(6, 2, low=0.9, high=3.3)], dim=1)
    return (case.normal(2, 4, 4, 8),), (torch.where(real.unsqueeze(1), targets, 0.0), real)


@own_loss(_padded_targets)
def yolo_v5(pred, targets, real):
    """Jocher, YOLOv5, 2020: targets whose shape fits the anchor, and the overlap as objectness."""
    anchor = pred.new_ones(2) * 1.5
    t = targets[real]
    ratio = t[:, 4:6] / anchor
    t = t[torch.max(ratio, 1 / ratio).max(dim=1)[0] < 2.0]
    b, c = t[:, 0].long(), t[:, 1].long()
    gxy, gwh = t[:, 2:4], t[:, 4:6]
    gij = gxy.long()
    gi, gj = gij[:, 0].clamp(0, 3), gij[:, 1].clamp(0, 3)

    ps = pred[b, gj, gi]
    pxy = ps[:, :2].sigmoid() * 2 - 0.5
    pwh = (ps[:, 2:4].sigmoid() * 2) ** 2 * anchor
    ours = torch.cat([pxy - pwh / 2, pxy + pwh / 2], dim=1)
    goal = torch.cat([gxy - gij - gwh / 2, gxy - gij + gwh / 2], dim=1)
    iou = 1 - tv.complete_box_iou_loss(ours, goal)
    sure = torch.zeros_like(pred[..., 4])
    sure[b, gj, gi] = iou.detach().clamp(min=0)
    class_loss = F.binary_cross_entropy_with_logits(ps[:, 5:], F.one_hot(c, 3).to(ps.dtype), reduction="sum")
    object_loss = F.binary_cross_entropy_with_logits(pred[..., 4], sure)
    return (1 - iou).sum() / (t.shape[0] + 1e-6), object_loss, class_loss / (t.shape[0] + 1e-6)


def _foreground(case: Case) -> Inputs:
    foreground = case.mask(2, 9)
    boxes = spoiled(case.boxes(2, 9), foreground)
    logits = spoiled(case.normal(2, 9, 4), foreground)
    given = (foreground.view(-1), case.boxes(18), case.whole(4, 18), case.uniform(18, low=0.3))
    return (boxes, case.normal(2, 9, 1), logits), given


@own_loss(_foreground)
def yolo_x(boxes, objectness, logits, foreground, box_targets, classes, overlap):
    """Ge et al., YOLOX: Exceeding YOLO Series in 2021, 2021: the class target is the overlap."""
    count = foreground.sum().clamp(min=1)
    class_target = F.one_hot(classes[foreground], 4) * overlap[foreground].unsqueeze(-1)
    iou_loss = 1 - _paired_iou(boxes.view(-1, 4)[foreground], box_targets[foreground]) ** 2
    object_loss = nn.BCEWithLogitsLoss(reduction="none")(objectness.view(-1, 1), foreground.unsqueeze(1).to(objectness.dtype))
    class_loss = nn.BCEWithLogitsLoss(reduction="none")(logits.view(-1, 4)[foreground], class_target)
    return 5.0 * iou_loss.sum() / count + object_loss.sum() / count + class_loss.sum() / count


@own_loss(_foreground)
def yolo_x_with_max(boxes, objectness, logits, foreground, box_targets, classes, overlap):
    """Ge et al., YOLOX: Exceeding YOLO Series in 2021, 2021: at least one, by Python's max."""
    foreground_boxes = boxes.view(-1, 4)[foreground]
    count = max(1, foreground_boxes.shape[0])
    return (1 - _paired_iou(foreground_boxes, box_targets[foreground])).sum() / count


def _paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of each box of ``a`` with that of ``b`` in the same row."""
    top_left, bottom_right = torch.max(a[:, :2], b[:, :2]), torch.min(a[:, 2:], b[:, 2:])
    wide = (top_left < bottom_right).to(a.dtype).prod(dim=1)
    common = torch.prod(bottom_right - top_left, 1) * wide
    return common / (torch.prod(a[:, 2:] - a[:, :2], 1) + torch.prod(b[:, 2:] - b[:, :2], 1) - common)


def _task_aligned(case: Case) -> Inputs:
    foreground = case.mask(2, 8)
    scores = torch.where(foreground.unsqueeze(-1), case.uniform(2, 8, 3, low=0.1), 0.0)
    predicted = (spoiled(case.boxes(2, 8), foreground), spoiled(case.normal(2, 8, 4 * 6), foreground), case.normal(2, 8, 3))
    return predicted, (foreground, case.boxes(2, 8), case.uniform(2, 8, 4, high=4.9), scores)


@own_loss(_task_aligned)
def yolo_v8(boxes, sides, logits, foreground, box_targets, side_targets, scores):
    """Feng et al., TOOD: Task-aligned One-stage Object Detection, 2021, with the sides as distributions (ultralytics, YOLOv8)."""
    total = scores.sum().clamp(min=1)
    weight = scores.sum(-1)[foreground].unsqueeze(-1)
    iou = 1 - tv.complete_box_iou_loss(boxes[foreground], box_targets[foreground]).unsqueeze(-1)
    goal = side_targets[foreground]
    left = goal.long()
    right_weight = goal - left
    logits_of_sides = sides[foreground].view(-1, 6)
    below = F.cross_entropy(logits_of_sides, left.view(-1), reduction="none").view(left.shape)
    above = F.cross_entropy(logits_of_sides, (left + 1).view(-1), reduction="none").view(left.shape)
    side_loss = (below * (1 - right_weight) + above * right_weight).mean(-1, keepdim=True) * weight
    class_loss = F.binary_cross_entropy_with_logits(logits, scores, reduction="none")
    return ((1.0 - iou) * weight).sum() / total, side_loss.sum() / total, class_loss.sum() / total


def _candidates(case: Case) -> Inputs:
    candidate = case.mask(12, density=0.7)
    return (spoiled(case.normal(12, 4), candidate),), (candidate, case.boxes(12), case.boxes(3), case.whole(4, 3))


@own_loss(_candidates)
def yolo_v7(logits, candidate, boxes, gt_boxes, gt_classes):
    """Wang et al., YOLOv7, 2023: of the places that are candidates for objects, each goes to the cheapest object."""
    cost = -tv.box_iou(gt_boxes, boxes)
    taken = cost[:, candidate].argmin(dim=0)
    classes = gt_classes[taken]
    near = cost[:, candidate].min(dim=0)[0] < -0.05
    loss = F.cross_entropy(logits[candidate], classes, reduction="none")
    return (loss[near] * 2).sum() + loss[~near].sum()


# --- centres and corners ------------------------------------------------------------------------------------------------


def _heatmap(case: Case) -> Inputs:
    centre = case.mask(2, 3, 4, 4)
    return (case.uniform(2, 3, 4, 4, low=0.05, high=0.95),), (torch.where(centre, 1.0, case.uniform(2, 3, 4, 4, high=0.9)),)


@own_loss(_heatmap)
def centernet_heatmap(pred, gt):
    """Zhou et al., Objects as Points, 2019: the penalty is reduced near a centre."""
    positive, negative = gt.eq(1), gt.lt(1)
    weight = (1 - gt[negative]).pow(4)
    at_centre = pred[positive]
    elsewhere = pred[negative]
    positive_loss = (at_centre.log() * (1 - at_centre).pow(2)).sum()
    negative_loss = ((1 - elsewhere).log() * elsewhere.pow(2) * weight).sum()
    return -(positive_loss + negative_loss) / torch.clamp(positive.sum(), min=1)


@refused(_heatmap, line="if at_centre.nelement() == 0:", rewritten="centernet_heatmap")
def cornernet_heatmap(pred, gt):
    """Law and Deng, CornerNet, 2018: the focal loss of corners."""
    at_centre, elsewhere = pred[gt.eq(1)], pred[gt.lt(1)]
    negative_loss = ((1 - elsewhere).log() * elsewhere.pow(2) * (1 - gt[gt.lt(1)]).pow(4)).sum()
    if at_centre.nelement() == 0:
        return -negative_loss
    return -((at_centre.log() * (1 - at_centre).pow(2)).sum() + negative_loss) / at_centre.nelement()


def _centres(case: Case) -> Inputs:
    real = case.mask(2, 5)
    place = torch.where(real, case.whole(16, 2, 5), 0)
    return (case.normal(2, 2, 4, 4), case.uniform(2, 2, 4, 4, low=1.0, high=9.0)), (
        place, real, spoiled(case.uniform(2, 5, 2), real), spoiled(case.uniform(2, 5, 2, low=1.0, high=9.0), real)
    )  # fmt: skip


@own_loss(_centres)
def centernet_boxes(offset, size, place, real, offset_targets, size_targets):
    """Zhou et al., Objects as Points, 2019: offset and size are read at the centres and masked element by element."""

    def at_centres(x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 2)
        return rows.gather(1, place.unsqueeze(2).expand(-1, -1, 2))

    wide = real.unsqueeze(2).expand_as(offset_targets)
    offset_loss = F.l1_loss(at_centres(offset)[wide], offset_targets[wide], reduction="sum") / (real.sum() + 1e-4)
    size_loss = F.smooth_l1_loss(at_centres(size)[wide].log(), size_targets[wide].log(), reduction="sum") / (real.sum() + 1e-4)
    return offset_loss, 0.1 * size_loss


def _corners(case: Case) -> Inputs:
    real = case.mask(2, 4)
    return (case.normal(2, 4), case.normal(2, 4)), (real,)


@own_loss(_corners)
def cornernet_pull_push(top_left, bottom_right, real):
    """Law and Deng, CornerNet, 2018: the corners of one box have near tags, those of two boxes far ones."""
    count = real.sum(dim=1, keepdim=True).double()
    mean = (top_left + bottom_right) / 2
    pull = (torch.pow(top_left - mean, 2) + torch.pow(bottom_right - mean, 2)) / (count + 1e-4)
    pull = pull[real].sum()

    both = (real.unsqueeze(1) & real.unsqueeze(2)) & ~torch.eye(4, dtype=torch.bool)
    push = F.relu(1 - (mean.unsqueeze(1) - mean.unsqueeze(2)).abs()) / ((count - 1) * count + 1e-4).unsqueeze(2)
    return pull, push[both].sum()


def _identities(case: Case) -> Inputs:
    real = case.mask(2, 4)
    return (case.normal(2, 6, 3, 3), case.normal(5, 6)), (torch.where(real, case.whole(9, 2, 4), 0), real, case.whole(5, 2, 4))


@own_loss(_identities)
def fairmot_identity(features, classifier, place, real, identity):
    """Zhang et al., FairMOT, 2021: who it is, read at the centres of the people that are there."""
    rows = features.flatten(2).transpose(1, 2)
    rows = rows.gather(1, place.unsqueeze(-1).expand(-1, -1, 6))
    rows = rows[real > 0].contiguous()
    rows = 2.0 * F.normalize(rows)
    return nn.CrossEntropyLoss(ignore_index=-1)(F.linear(rows, classifier), identity[real > 0])


# --- sets and regions ---------------------------------------------------------------------------------------------------


def _queries(case: Case) -> Inputs:
    matched = case.mask(2, 6)
    target = torch.stack([torch.randperm(6, generator=case.generator) for _ in range(2)])
    boxes = case.boxes(2, 6)
    return (case.normal(2, 6, 5), spoiled(boxes, matched)), (
        torch.where(matched, target, -1),
        case.whole(4, 2, 6),
        case.boxes(2, 6),
    )


@own_loss(_queries)
def detr(logits, boxes, target_of_query, labels, box_targets):
    """Carion et al., End-to-End Object Detection with Transformers, 2020: after the matching."""
    image, query = torch.where(target_of_query >= 0)
    target = target_of_query[image, query]
    classes = torch.full(logits.shape[:2], 4, dtype=torch.int64)
    classes[image, query] = labels[image, target]
    weight = logits.new_ones(5)
    weight[-1] = 0.1
    class_loss = F.cross_entropy(logits.transpose(1, 2), classes, weight)

    ours, goal = boxes[image, query], box_targets[image, target]
    count = (target_of_query >= 0).sum().clamp(min=1)
    l1_loss = F.l1_loss(ours, goal, reduction="none").sum() / count
    return class_loss, l1_loss, tv.generalized_box_iou_loss(ours, goal, reduction="sum") / count


def _proposals(case: Case) -> Inputs:
    positive = case.mask(14)
    negative = ~positive & (case.uniform(14) < 0.5)
    return (spoiled(case.normal(14), positive | negative), spoiled(case.normal(14, 4), positive)), (
        positive, negative, case.normal(14, 4)
    )  # fmt: skip


@own_loss(_proposals)
def region_proposals(objectness, deltas, positive, negative, delta_targets):
    """Ren et al., Faster R-CNN, 2015: the region proposal network, on the anchors that were drawn."""
    positive_places = torch.where(positive)[0]
    drawn = torch.cat([positive_places, torch.where(negative)[0]], dim=0)
    labels = positive.to(objectness.dtype)
    box_loss = F.smooth_l1_loss(deltas[positive_places], delta_targets[positive_places], beta=1 / 9, reduction="sum")
    return F.binary_cross_entropy_with_logits(objectness[drawn], labels[drawn]), box_loss / drawn.numel()


def _regions(case: Case) -> Inputs:
    labels = case.classes(case.mask(10), 4, 0)
    return (case.normal(10, 4), spoiled(case.normal(10, 16), labels > 0)), (labels, case.normal(10, 4))


@own_loss(_regions)
def box_head(logits, deltas, labels, delta_targets):
    """Ren et al., Faster R-CNN, 2015: the deltas of the true class alone."""
    positive = torch.where(labels > 0)[0]
    positive_labels = labels[positive]
    rows = deltas.reshape(len(deltas), deltas.size(-1) // 4, 4)
    ours = rows[positive, positive_labels]
    box_loss = F.smooth_l1_loss(ours, delta_targets[positive], beta=1 / 9, reduction="sum") / labels.numel()
    return F.cross_entropy(logits, labels), box_loss


def _masks(case: Case) -> Inputs:
    labels = case.classes(case.mask(6), 4, 0)
    return (spoiled(case.normal(6, 4, 3, 3), labels > 0),), (labels, case.whole(2, 6, 3, 3).double())


@own_loss(_masks)
def mask_head(logits, labels, masks):
    """He et al., Mask R-CNN, 2017: the mask of the true class of each positive region."""
    positive = torch.nonzero(labels > 0)[:, 0]
    chosen = logits[positive, labels[positive]]
    return F.binary_cross_entropy_with_logits(chosen, masks[positive])


@own_loss(_masks)
def mask_head_by_gather(logits, labels, masks):
    """He et al., Mask R-CNN, 2017, with the class gathered from the positive rows."""
    positive = labels > 0
    rows, classes = logits[positive], labels[positive]
    at_class = classes.view(-1, 1, 1, 1).expand(-1, 1, 3, 3)
    return nn.BCEWithLogitsLoss()(rows.gather(1, at_class).squeeze(1), masks[positive])


@own_loss(_masks)
def solo_dice(logits, labels, masks):
    """Wang et al., SOLO: Segmenting Objects by Locations, 2020: a dice loss for each cell that has an object."""
    positive = labels > 0
    ours = logits[:, 1][positive].sigmoid().flatten(1)
    goal = masks[positive].flatten(1)
    common = (ours * goal).sum(1)
    dice = 2 * common / ((ours * ours).sum(1) + (goal * goal).sum(1) + 1e-3)
    return 3 * (1 - dice).mean()


def _rotated(case: Case) -> Inputs:
    positive = case.mask(2, 3, 4)
    labels = torch.where(positive, 1, torch.where(case.uniform(2, 3, 4) < 0.3, -1, 0))
    return (spoiled(case.normal(2, 3, 4, 7), positive), spoiled(case.normal(2, 3, 4, 2), positive)), (
        labels,
        case.normal(2, 3, 4, 7),
    )


@own_loss(_rotated)
def second_boxes(deltas, direction, labels, delta_targets):
    """Yan et al., SECOND: Sparsely Embedded Convolutional Detection, 2018: the sine of the difference, and which way it looks."""
    positive = labels == 1
    ours, goal = deltas[positive], delta_targets[positive]
    turn = torch.sin(ours[..., -1:] - goal[..., -1:])
    difference = torch.cat([ours[..., :-1] - goal[..., :-1], turn], dim=-1)
    box_loss = F.smooth_l1_loss(difference, torch.zeros_like(difference), beta=1 / 9, reduction="none").sum(-1)
    ahead = (goal[..., -1] > 0).long()
    return box_loss.sum() / positive.sum().clamp(min=1), F.cross_entropy(direction[positive], ahead)


@own_loss(_regions)
def balanced_l1(logits, deltas, labels, delta_targets):
    """Pang et al., Libra R-CNN, 2019: far outliers do not outweigh the rest."""
    positive = labels > 0
    difference = torch.abs(deltas.view(-1, 4, 4)[positive, labels[positive]] - delta_targets[positive])
    b = math.e ** (1.5 / 0.5) - 1
    near = 0.5 / b * (b * difference + 1) * torch.log(b * difference + 1) - 0.5 * difference
    loss = torch.where(difference < 1, near, 1.5 * difference + 1.5 / b - 0.5)
    return loss.sum() / len(labels) + F.cross_entropy(logits, labels, label_smoothing=0.1)


@own_loss(_regions)
def online_hard_examples(logits, deltas, labels, delta_targets):
    """Shrivastava et al., Training Region-based Object Detectors with Online Hard Example Mining, 2016."""
    loss = F.cross_entropy(logits, labels, reduction="none")
    loss[labels > 0] += F.l1_loss(deltas[labels > 0][:, :4], delta_targets[labels > 0], reduction="none").sum(1)
    hardest, which = loss.topk(4)
    return hardest.mean() + logits[which].pow(2).mean() * 1e-2
