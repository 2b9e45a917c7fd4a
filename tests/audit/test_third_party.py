"""Training with packages that are not torchvision, audited as a user does it: each dynamic op and host sync at its place.

The tables were written from the source of transformers 5.23 and timm 1.0.31: file and function of each, and how often a step
does it. The reports are kept as golden files, which ``tools/regen_golden`` writes.
"""

from collections import Counter
from pathlib import PurePath

import pytest

from tests.audit.third_party import SCRIPTS, STEPS, audited, golden, golden_text

ONCE = 0  # at the first step alone
IMAGES = 2
LOSS = ("FS201", "", "main")  # loss.item() of the script

_BOXES = "loss/loss_for_object_detection.py"
_WAVES = "wav2vec2/modeling_wav2vec2.py"
EXPECTED = {
    "detr": {
        LOSS: 1,
        # Two assertions each: in two matchings (one auxiliary), and in the loss of the boxes after each.
        ("FS201", _BOXES, "generalized_box_iou"): 2 * (2 + 2),
        ("FS202", _BOXES, "HungarianMatcher.forward"): 2,  # scipy matches on the host
        ("FS201", _BOXES, "ImageLoss.forward"): 1,  # the number of boxes
        ("FS201", "transformers/masking_utils.py", "_ignore_bidirectional_mask_sdpa"): 2,  # of the encoder and the decoder
        ("FS201", "detr/modeling_detr.py", "DetrEncoderLayer.forward"): 2,  # layers, each asks whether all is finite
    },
    "rt_detr": {
        LOSS: 1,
        # Three matchings (one auxiliary, one of the encoder's proposals), their losses, and those of two denoising layers.
        ("FS201", _BOXES, "generalized_box_iou"): 2 * (3 + 3 + 2),
        ("FS202", "loss/loss_rt_detr.py", "RTDetrHungarianMatcher.forward"): 3,
        ("FS201", "loss/loss_rt_detr.py", "RTDetrLoss.forward"): 1,
        ("FS201", "rt_detr/modeling_rt_detr.py", "RTDetrEncoderLayer.forward"): 1,
        ("FS101", "rt_detr/modeling_rt_detr.py", "get_contrastive_denoising_training_group"): 1,
        ("FS401", "rt_detr/modeling_rt_detr.py", "build_2d_sinusoidal_position_embedding"): ONCE,  # and kept from then on
    },
    "audio": {
        LOSS: 1,
        ("FS201", _WAVES, "Wav2Vec2ForCTC.forward"): 1,  # are the labels in the vocabulary?
        ("FS201", "transformers/masking_utils.py", "_ignore_bidirectional_mask_sdpa"): 1,
        ("FS201", _WAVES, "_compute_mask_indices"): 1,  # SpecAugment draws on the host, for the lengths
        # Of each of two layers, whether it is skipped. The number is drawn on the host, and this costs a device nothing.
        ("FS201", _WAVES, "Wav2Vec2Encoder.forward"): 2,
        ("FS103", _WAVES, "Wav2Vec2Model._mask_hidden_states"): 2,  # SpecAugment writes one vector by a mask; the gradient
        ("FS102", _WAVES, "Wav2Vec2Model._mask_hidden_states"): 1,  # the gradient of the vector
        ("FS104", "loss/loss_ctc.py", "ForCTCLoss"): 1,
        ("FS114", "loss/loss_ctc.py", "ForCTCLoss"): 1,
        ("FS402", _WAVES, "Wav2Vec2PositionalConvEmbedding.forward"): ONCE,  # its weights are normed; one key
    },
    "segmentation": {
        LOSS: 1,
        # Three predictions (two auxiliary), each matched image by image.
        ("FS202", "mask2former/modeling_mask2former.py", "Mask2FormerHungarianMatcher.forward"): 3 * IMAGES,
        ("FS201", "mask2former/modeling_mask2former.py", "Mask2FormerPixelDecoderEncoderLayer.forward"): 1,
    },
    "timm_train": {LOSS: 1},
}
SUGGESTED = {
    "detr": {
        ("FS201", "DetrEncoderLayer.forward"): "compute both and choose: "
        "torch.where(torch.logical_not(torch.isfinite(hidden_states).all()), a, b)",
        ("FS201", "ImageLoss.forward"): "num_boxes = torch.clamp(num_boxes / world_size, min=1)",
    },
    "rt_detr": {
        ("FS101", "get_contrastive_denoising_training_group"): "found = fixed_nonzero(positive_gt_mask, size=...); "
        "denoise_positive_idx = found.indices[:, 1]  # valid: found.valid_mask; or as it was, inside fixshape.static_indexing()",
    },
    "audio": {
        (code, "Wav2Vec2Model._mask_hidden_states"): "hidden_states = torch.where(mask_time_indices[..., None], "
        "self.masked_spec_embed.to(hidden_states.dtype), hidden_states)  # a value for every row"
        for code in ("FS102", "FS103")
    },
    "segmentation": {},
    "timm_train": {("FS201", "main"): "loss.detach()  # stays a tensor"},
}
VARYING = {
    "detr": {"pixel_values", "pixel_mask", "labels[*].boxes", "labels[*].class_labels"},
    "rt_detr": {"[1][*].boxes", "[1][*].class_labels"},
    "audio": {"input_values", "attention_mask", "labels"},
    "segmentation": {"[1][*]", "[2][*]"},
    "timm_train": set(),
}


def _where(finding, script):
    file = PurePath(finding.site.file.replace("\\", "/"))
    name = "" if file.name == f"{script}.py" else "/".join(file.parts[-2:])
    return finding.code, name, finding.site.function


SLOW = ("audio", "rt_detr", "segmentation")


@pytest.mark.parametrize("script", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SCRIPTS])
def test_what_a_training_step_does_is_found_and_nothing_else(script, tmp_path):
    audit = audited(script, tmp_path)
    assert (audit.status, len(audit.report.steps), audit.unknown) == ("stopped", STEPS, {})
    told = [finding for finding in audit.findings if not finding.code.startswith("FS3")]
    found, once = Counter(), set()
    for finding in told:
        found[_where(finding, script)] += finding.count
        if finding.steps == 1:
            once.add(_where(finding, script))
    assert once == {where for where, count in EXPECTED[script].items() if count == ONCE}
    per_step = {where: count / STEPS for where, count in found.items() if where not in once}
    assert per_step == {where: count for where, count in EXPECTED[script].items() if count != ONCE}

    suggestions = {(finding.code, finding.site.function): finding.suggestion for finding in told}
    assert SUGGESTED[script].items() <= suggestions.items()

    assert {key for key, shapes in audit.inputs.items() if len(shapes) > 1} == VARYING[script]
    drift = sum(finding.compiles for finding in audit.findings)
    assert drift == sum(step.compiles for step in audit.report.steps[2:])  # each compile after the warm-up is told, and once
    assert ("FS302" in {finding.code for finding in audit.findings}) == bool(VARYING[script])

    assert golden_text(audit) == golden(script).read_text()
