"""Which losses of other packages are run, as they are installed, inside ``static_indexing``?

A program makes small inputs for one kind of mask and calls a loss of transformers, timm, torchmetrics or torchvision, or a model
that computes one in its forward. It hands over tensors, masks, or rows; of those packages nothing is changed. The paths in the
docstrings are those of transformers 5.23 and timm 1.0.31.

Shapes: ``B`` images or sentences, ``Q`` queries, ``M`` boxes of an image, ``S`` tokens or patches, ``C`` classes, ``N`` rows.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.ops.own_losses import KINDS, SOME, Case

Run = tuple[list[Tensor], Callable[[], Any]]  # what has a gradient, and the call that computes with it
SINGLE = 1e-6  # the tolerance for what computes in single precision by itself


@dataclasses.dataclass(frozen=True)
class Program:
    """A call of somebody else's code.

    Args:
        make: from a case to its leaves and the call.
        kinds: the masks for which the plain form has a value.
        tolerance: between plain and block, absolute and relative.
        syncs: values that the package reads on the host in any case, of plain tensors; it may branch on them.
        stops_at: text of the line that cannot be followed, ``""`` where the program runs.
    """

    make: Callable[[Case], Run]
    kinds: tuple[str, ...] = KINDS
    tolerance: float = 1e-12
    syncs: int = 0
    stops_at: str = ""

    @property
    def name(self) -> str:
        return self.make.__name__


PROGRAMS: list[Program] = []


def program(**options: Any) -> Callable[[Any], Any]:
    """Registers a program."""

    def register(make: Any) -> Any:
        PROGRAMS.append(Program(make, **options))
        return make

    return register


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def parameters(module: nn.Module) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _from(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


@functools.cache
def _model(name: str, config: str, options: str) -> Any:
    torch.manual_seed(0)
    return _from("transformers", name)(_from("transformers", config)(**json.loads(options))).double().train()


def model(name: str, config: str, **options: Any) -> Any:
    """A model of transformers of few small layers, with random weights, in training mode."""
    return _model(name, config, json.dumps(options))


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TEXT = {"vocab_size": 20, "max_position_embeddings": 16, **SMALL, **STILL}
DECODER = {f"decoder_{name}": size for name, size in SMALL.items()}


# -- pictures -----------------------------------------------------------------------------------------------------------------


@program()
def beit(case: Case) -> Run:
    """models/beit: ``prediction_scores[bool_masked_pos]``, and labels that come selected."""
    sizes = {"image_size": 8, "patch_size": 2, "vocab_size": 11, "use_mask_token": True, "drop_path_rate": 0.0}
    m = model("BeitForMaskedImageModeling", "BeitConfig", **sizes, **SMALL, **STILL)
    mask, pixels, codes = case.mask(2, 16), leaf(case.normal(2, 3, 8, 8)), case.whole(11, 2, 16)
    return [pixels, *parameters(m)], lambda: m(pixels, bool_masked_pos=mask, labels=codes[mask]).loss


def _flava_config() -> Any:
    picture = {"image_size": 8, "patch_size": 4, "vocab_size": 12, "mask_token": True, **SMALL, **STILL}
    codebook = {"num_groups": 1, "hidden_size": 4, "vocab_size": 12, "num_blocks_per_group": 1}
    parts = {"text_config": TEXT, "image_config": picture, "multimodal_config": {**SMALL, **STILL}}
    return _from("transformers", "FlavaConfig")(image_codebook_config=codebook, projection_dim=8, hidden_size=8, **parts)


@functools.cache
def _flava_model() -> Any:
    torch.manual_seed(0)
    return _from("transformers", "FlavaForPreTraining")(_flava_config()).double().train()


@program(kinds=("random", "full"), syncs=3)
def flava(case: Case) -> Run:
    """models/flava: five losses, each of rows of another mask, some of rows of rows; ``mim_labels[...] = -100`` in place."""
    m = _flava_model()
    ids, pixels, codes = case.whole(20, 3, 6), case.normal(3, 3, 8, 8), case.whole(12, 3, 4)
    words, patches, pairs = case.classes(case.mask(3, 6), 20, -100), case.mask(3, 4), case.mask(3).long()

    def run() -> Any:
        given = {"bool_masked_pos": patches.clone(), "mlm_labels": words.clone(), "mim_labels": codes.clone()}
        seen = torch.ones_like(ids)
        out = m(
            input_ids=ids,
            pixel_values=pixels,
            input_ids_masked=ids,
            attention_mask=seen,
            itm_labels=pairs,
            return_loss=True,
            **given,
        )
        return [loss for loss in out.loss_info.values() if loss is not None]

    return parameters(m), run


def _hiera() -> Any:
    sizes = {"image_size": (16, 16), "patch_size": (3, 3), "patch_stride": (2, 2), "patch_padding": (1, 1)}
    windows = {"masked_unit_size": (2, 2), "query_stride": (2, 2), "num_query_pool": 1, "masked_unit_attention": (True, True)}
    depth = {"depths": (1, 1), "num_heads": (1, 2), "embed_dim": 8, "embed_dim_multiplier": 2.0}
    decoder = {"decoder_hidden_size": 8, "decoder_depth": 1, "decoder_num_heads": 2, "mask_ratio": 0.5}
    return model("HieraForPreTraining", "HieraConfig", **sizes, **windows, **depth, **decoder)


@program()
def hiera_loss(case: Case) -> Run:
    """models/hiera, ``forward_loss``: pixels normalised over each selected patch."""
    m = _hiera()
    patches, size = (16 // m.pred_stride) ** 2, m.pred_stride**2 * 3
    pixels, seen, logits = case.normal(2, 3, 16, 16), ~case.mask(2, patches), leaf(case.normal(2, patches, size))
    return [logits], lambda: m.forward_loss(pixels, logits, seen)


@program(kinds=("random",), stops_at="hidden_states.view(batch_size, -1, hidden_size)")
def hiera(case: Case) -> Run:
    """models/hiera: what each picture keeps, as many patches of each, in a dimension of its own."""
    m, pixels, noise = _hiera(), case.normal(2, 3, 16, 16), case.uniform(2, 16)
    return parameters(m), lambda: m(pixels, noise=noise).loss


@program(kinds=("random",), stops_at="embeddings.reshape(batch_size, -1, num_channels)")
def video_mae(case: Case) -> Run:
    """models/videomae: the same."""
    sizes = {"image_size": 4, "patch_size": 2, "num_frames": 4, "tubelet_size": 2}
    m = model("VideoMAEForPreTraining", "VideoMAEConfig", **sizes, **DECODER, **SMALL, **STILL)
    pixels, mask = case.normal(2, 4, 3, 4, 4), case.uniform(2, 8).argsort(1) < 5
    return parameters(m), lambda: m(pixels, bool_masked_pos=mask).loss


@program()
def glpn(case: Case) -> Run:
    """models/glpn, ``SiLogLoss``: the logarithm of depths that are known."""
    mask = case.mask(2, 4, 4)
    pred, target = leaf(case.uniform(2, 4, 4, low=0.5)), torch.where(mask, case.uniform(2, 4, 4, low=0.5), 0.0)
    return [pred], lambda: _from("transformers.models.glpn.modeling_glpn", "SiLogLoss")()(pred, target)


# -- text ---------------------------------------------------------------------------------------------------------------------


def _bros(case: Case, name: str, labels: dict[str, Tensor]) -> Run:
    m = model(name, "BrosConfig", num_labels=5, dim_bbox=8, **{**TEXT, "hidden_size": 64})
    ids, boxes, first = case.whole(20, 2, 7), case.uniform(2, 7, 4), case.mask(2, 7)
    given = {"attention_mask": torch.ones_like(ids), "bbox_first_token_mask": first, **labels}
    return parameters(m), lambda: m(ids, bbox=boxes, **given).loss


@program(syncs=1)
def bros(case: Case) -> Run:
    """models/bros: token classification at the first token of each box."""
    return _bros(case, "BrosForTokenClassification", {"labels": case.whole(5, 2, 7)})


@program(syncs=1)
def bros_groups(case: Case) -> Run:
    """models/bros: two masks, two losses."""
    after = torch.arange(1, 8).repeat(2, 1)
    labels = {"initial_token_labels": case.whole(5, 2, 7), "subsequent_token_labels": after}
    return _bros(case, "BrosSpadeEEForTokenClassification", labels)


@program(syncs=1)
def bros_links(case: Case) -> Run:
    """models/bros: a class for each other token, those that are none set to the lowest number."""
    return _bros(case, "BrosSpadeELForTokenClassification", {"labels": torch.full((2, 7), 7)})


@program(kinds=SOME)
def bert(case: Case) -> Run:
    """models/bert: a whole model on selected sentences; of none, where plain code raises, is left out."""
    m, ids, mask = model("BertModel", "BertConfig", **TEXT), case.whole(20, 4, 5), case.mask(4)
    return parameters(m), lambda: m(ids[mask]).last_hidden_state.square().sum()


@program(kinds=("random",), stops_at="if label_index.size(0) > 0")
def deberta(case: Case) -> Run:
    """models/deberta: labels of -1 are left out, by a branch on how many others there are."""
    m = model("DebertaForSequenceClassification", "DebertaConfig", num_labels=3, pooler_hidden_size=8, **TEXT)
    ids, labels = case.whole(20, 4, 5), case.classes(case.mask(4), 3, -1)
    return parameters(m), lambda: m(ids, labels=labels).loss


@program(tolerance=SINGLE, syncs=1)
def electra(case: Case) -> Run:
    """models/electra: the discriminator at the tokens that attention sees."""
    m = model("ElectraForPreTraining", "ElectraConfig", embedding_size=8, **TEXT)
    hidden, mask, labels = leaf(case.normal(2, 7, 8)), case.mask(2, 7), case.whole(2, 2, 7)
    return [hidden, *parameters(m)], lambda: m(inputs_embeds=hidden, attention_mask=mask.long(), labels=labels).loss


@program(tolerance=SINGLE)
def modernbert(case: Case) -> Run:
    """models/modernbert, ``sparse_prediction``: the head and the decoder on the masked tokens alone."""
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    sizes = {"vocab_size": 20, "max_position_embeddings": 16, **SMALL}
    m = model("ModernBertForMaskedLM", "ModernBertConfig", sparse_prediction=True, **tokens, **sizes)
    ids, labels = case.whole(20, 2, 7), case.classes(case.mask(2, 7), 20, -100)
    return parameters(m), lambda: m(ids, labels=labels).loss


@program(tolerance=SINGLE)
def prophetnet(case: Case) -> Run:
    """models/prophetnet, ``_compute_loss``: smoothing over what is not ignored."""
    config = SimpleNamespace(ngram=2, eps=0.1)
    compute = _from("transformers", "ProphetNetForConditionalGeneration")._compute_loss
    logits, labels = leaf(case.normal(2, 2, 7, 20)), case.classes(case.mask(2, 7), 20, -100)
    return [logits], lambda: compute(SimpleNamespace(config=config, disable_ngram_loss=False), logits, labels)


@program(tolerance=SINGLE)
def language(case: Case) -> Run:
    """loss/loss_utils.py: each of the losses of language models, on selected sentences."""
    losses, config = importlib.import_module("transformers.loss.loss_utils"), SimpleNamespace(num_labels=4, problem_type=None)
    x, mask, labels = leaf(case.normal(6, 7, 4)), case.mask(6), case.whole(4, 6, 7)

    def run() -> Any:
        rows, wanted = x[mask], labels[mask]
        return (
            losses.ForCausalLMLoss(rows, wanted, 4),
            losses.ForMaskedLMLoss(rows, wanted, 4, num_items_in_batch=(wanted > 0).sum()),
            losses.ForTokenClassification(rows, wanted, config),
            losses.ForQuestionAnsweringLoss(rows[..., 0], rows[..., 1], wanted[:, 0], wanted[:, 1]),
            losses.ForSequenceClassificationLoss(wanted[:, 0], rows[:, 0], config),
        )

    return [x], run


@program()
def xmod(case: Case) -> Run:
    """models/xmod: the sentences of each language through an adapter of its own, and written back."""
    torch.manual_seed(0)
    config = _from("transformers", "XmodConfig")(languages=("a", "b", "c"), adapter_reuse_layer_norm=True, **SMALL, **STILL)
    m = _from("transformers.models.xmod.modeling_xmod", "XmodOutput")(config).double()
    language = case.mask(4).long() + case.mask(4).long()
    hidden, other = leaf(case.normal(4, 3, 16)), leaf(case.normal(4, 3, 8))
    return [hidden, other, *parameters(m)], lambda: m(hidden, other, language).square().sum()


@program(kinds=("random",), stops_at="for expert_idx in expert_hit")
def mixtral(case: Case) -> Run:
    """models/mixtral: a loop over the experts that have tokens."""
    torch.manual_seed(0)
    config = _from("transformers", "MixtralConfig")(
        hidden_size=8, intermediate_size=16, num_local_experts=4, num_experts_per_tok=2, experts_implementation="eager"
    )
    m = _from("transformers.models.mixtral.modeling_mixtral", "MixtralSparseMoeBlock")(config).double()
    for parameter in m.parameters():
        nn.init.normal_(parameter)
    x = leaf(case.normal(2, 5, 8))
    return [x, *parameters(m)], lambda: m(x).square().sum()


# -- speech -------------------------------------------------------------------------------------------------------------------


@program(tolerance=SINGLE)
def speech_t5(case: Case) -> Run:
    """models/speecht5, ``SpeechT5SpectrogramLoss``: frames whose label is not -100, and the stop token."""
    config = SimpleNamespace(use_guided_attention_loss=False, guided_attention_loss_num_heads=2, reduction_factor=2)
    loss = _from("transformers.models.speecht5.modeling_speecht5", "SpeechT5SpectrogramLoss")(config).double()
    before, after, stop = (leaf(case.normal(*shape)) for shape in ((2, 6, 4), (2, 6, 4), (2, 6)))
    labels = torch.where(case.mask(2, 6)[..., None], case.normal(2, 6, 4), -100.0)
    return [before, after, stop], lambda: loss(torch.ones(2, 5), before, after, stop, labels)


def _fast_speech(case: Case, masked: bool) -> Run:
    config = SimpleNamespace(use_masking=masked, use_weighted_masking=not masked)
    module = "transformers.models.fastspeech2_conformer.modeling_fastspeech2_conformer"
    loss = _from(module, "FastSpeech2ConformerLoss")(config)
    frames, tokens = case.mask(2, 6, 1), case.mask(2, 5)
    if not masked:  # a sentence without a frame has a weight of 0 / 0
        frames[:, 0], tokens[:, 0] = True, True
    predicted = [leaf(case.normal(*shape).float()) for shape in ((2, 6, 4), (2, 6, 4), (2, 5), (2, 5, 1), (2, 5, 1))]
    given = [case.normal(2, 6, 4).float(), case.whole(5, 2, 5), *(case.normal(2, 5, 1).float() for _ in range(2))]
    return predicted, lambda: loss(*predicted, *given, tokens, frames)


@program(tolerance=SINGLE)
def fast_speech(case: Case) -> Run:
    """models/fastspeech2_conformer, ``FastSpeech2ConformerLoss``: ``masked_select`` of nine tensors by three masks."""
    return _fast_speech(case, masked=True)


@program(tolerance=SINGLE)
def fast_speech_weighted(case: Case) -> Run:
    """The same with a weight for each sentence."""
    return _fast_speech(case, masked=False)


@program(kinds=("random", "full"), syncs=1)
def vits(case: Case) -> Run:
    """models/vits: a spline inside of an interval, written where the mask is; plain code needs one number inside."""
    spline = _from("transformers.models.vits.modeling_vits", "_unconstrained_rational_quadratic_spline")
    inside, outside = case.uniform(2, 3, 5, low=-4.0, high=4.0), case.uniform(2, 3, 5, low=6.0, high=9.0)
    inputs = leaf(torch.where(case.mask(2, 3, 5), inside, outside))
    bins = [leaf(case.normal(2, 3, 5, size)) for size in (4, 4, 3)]

    def run() -> Any:
        outputs, log_determinant = spline(inputs, *bins, tail_bound=5.0)
        return outputs.square().sum(), log_determinant.sum()

    return [inputs, *bins], run


def _speech_model() -> Any:
    convolutions = {"conv_dim": (4, 4), "conv_stride": (5, 2), "conv_kernel": (5, 2), "num_feat_extract_layers": 2}
    positions = {"feat_extract_norm": "layer", "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    codes = {"codevector_dim": 8, "proj_codevector_dim": 8, "num_codevectors_per_group": 4, "vocab_size": 9}
    dropouts = "hidden_dropout attention_dropout activation_dropout feat_proj_dropout feat_quantizer_dropout layerdrop"
    still = dict.fromkeys(dropouts.split(), 0.0)
    return model("Wav2Vec2ForPreTraining", "Wav2Vec2Config", **convolutions, **positions, **codes, **still, **SMALL)


@program(tolerance=SINGLE, syncs=1)
def wav2vec2(case: Case) -> Run:
    """models/wav2vec2: ``hidden_states[mask] = embedding``, and negatives that are the positive set to -inf."""
    m = _speech_model()
    samples, length = case.normal(2, 100), int(m._get_feat_extract_output_lengths(100))
    mask, negatives = case.mask(2, length), case.whole(2 * length, 2, length, 5)
    return parameters(m), lambda: m(samples, mask_time_indices=mask, sampled_negative_indices=negatives).loss


@program(kinds=("random",), tolerance=SINGLE, stops_at="return nn.functional.ctc_loss(")
def ctc(case: Case) -> Run:
    """loss/loss_ctc.py: the labels of all sentences in one row."""
    logits, labels = leaf(case.normal(2, 12, 6)), case.classes(case.mask(2, 4), 6, -100)
    loss = _from("transformers.loss.loss_utils", "LOSS_MAPPING")["ForCTC"]
    return [logits], lambda: loss(logits, labels, torch.tensor([12, 11]), 0)


@program()
def higgs(case: Case) -> Run:
    """models/higgs_audio_v2, a layer: audio and text through norms and networks of their own, ``x[mask] += y``."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "num_hidden_layers": 1}
    config = _from("transformers", "HiggsAudioV2Config")(hidden_size=8, intermediate_size=16, **heads)
    config._attn_implementation = "eager"
    module = "transformers.models.higgs_audio_v2.modeling_higgs_audio_v2"
    m = _from(module, "HiggsAudioV2DecoderLayer")(config, 0).double()
    x, mask = leaf(case.normal(2, 5, 8)), case.mask(2, 5)
    turns = tuple(part.double() for part in _from(module, "HiggsAudioV2RotaryEmbedding")(config)(x, torch.arange(5)[None]))
    return [x, *parameters(m)], lambda: m(x * 1, audio_token_mask=mask, position_embeddings=turns).square().sum()


# -- detectors: the criteria, with a match of which each image has as many pairs as boxes ------------------------------------

Q, M, C = 6, 3, 4


class Match:
    """Two images of ``M`` padded boxes, some of them real, and a query for each box."""

    def __init__(self, case: Case) -> None:
        self.outputs = {
            "logits": leaf(case.normal(2, Q, C).float()),
            "pred_boxes": leaf(_boxes(case, 2, Q)),
            "pred_masks": leaf(case.normal(2, Q, 4, 4).float()),
        }
        self.targets = [
            {"class_labels": case.whole(C, M), "boxes": _boxes(case, M), "masks": case.mask(M, 4, 4).float()} for _ in range(2)
        ]
        self.query, self.real = [torch.randperm(Q, generator=case.generator)[:M] for _ in range(2)], case.mask(2, M)

    def run(self, criterion: nn.Module, names: Sequence[str], **more: Any) -> Run:
        """Some of the losses of a criterion; ``more`` outputs beside, or instead."""
        outputs = {**self.outputs, **more}

        def call() -> Any:
            pairs = [(query[real], torch.arange(M)[real]) for query, real in zip(self.query, self.real, strict=True)]
            count = self.real.sum().clamp(min=1)
            results = [criterion.get_loss(name, outputs, self.targets, pairs, count) for name in names]
            return [value for result in results for value in result.values()]

        return [x for x in outputs.values() if isinstance(x, Tensor) and x.requires_grad], call


def _boxes(case: Case, *shape: int) -> Tensor:
    """Centres and sizes, in single precision as some of the criteria have them."""
    return torch.cat([case.uniform(*shape, 2, low=0.3, high=0.7), case.uniform(*shape, 2, low=0.1, high=0.5)], -1).float()


def _criterion(module: str, name: str, *args: Any) -> Any:
    return _from(f"transformers.loss.{module}", name)(*args)


@program(tolerance=SINGLE)
def detr_masks(case: Case) -> Run:
    """loss/loss_for_object_detection.py: focal and dice of the masks of matched queries."""
    return Match(case).run(_criterion("loss_for_object_detection", "ImageLoss", None, C, 0.1, []), ("masks",))


@program(tolerance=SINGLE, syncs=2)
def detr(case: Case) -> Run:
    """loss/loss_for_object_detection.py: ``target_classes[idx] = ...``, boxes by l1 and generalised IoU."""
    criterion = _criterion("loss_for_object_detection", "ImageLoss", None, C - 1, 0.1, [])
    return Match(case).run(criterion, ("labels", "boxes", "cardinality"))


@program(tolerance=SINGLE, syncs=2)
def deformable_detr(case: Case) -> Run:
    """loss/loss_deformable_detr.py: focal loss of all queries."""
    criterion = _criterion("loss_deformable_detr", "DeformableDetrImageLoss", None, C, 0.25, [])
    return Match(case).run(criterion, ("labels", "boxes", "cardinality"))


@program(tolerance=SINGLE, syncs=2)
def lw_detr(case: Case) -> Run:
    """loss/loss_lw_detr.py: weights written at ``(image, query, class)``."""
    criterion = _criterion("loss_lw_detr", "LwDetrImageLoss", None, C, 0.25, [], 1)
    return Match(case).run(criterion, ("labels", "boxes", "cardinality"))


@program(tolerance=SINGLE, syncs=6)
def rt_detr(case: Case) -> Run:
    """loss/loss_rt_detr.py: varifocal loss, overlaps as targets."""
    criterion = _criterion("loss_rt_detr", "RTDetrLoss", _from("transformers", "RTDetrConfig")(num_labels=C))
    return Match(case).run(criterion, ("vfl", "boxes", "bce", "cardinality", "masks"))


def _with_corners(case: Case, criterion: Any, names: Sequence[str]) -> Run:
    bins = 4 * (criterion.max_num_bins + 1)
    corners, teacher, logits = case.normal(2, Q, bins).float(), case.normal(2, Q, bins).float(), case.normal(2, Q, C).float()
    more = {"pred_corners": leaf(corners), "teacher_corners": teacher, "teacher_logits": logits}
    return Match(case).run(criterion, names, ref_points=_boxes(case, 2, Q), **more)


@program(tolerance=SINGLE, syncs=7)
def d_fine(case: Case) -> Run:
    """loss/loss_d_fine.py: distances to bins, masks of masks, and distillation to what is and what is not matched."""
    criterion = _criterion("loss_d_fine", "DFineLoss", _from("transformers", "DFineConfig")(num_labels=C))
    return _with_corners(case, criterion, ("vfl", "boxes", "local"))


@program(tolerance=SINGLE, syncs=7)
def deimv2(case: Case) -> Run:
    """loss/loss_deimv2.py: matching-aware loss."""
    criterion = _criterion("loss_deimv2", "Deimv2Loss", _from("transformers", "Deimv2Config")(num_labels=C))
    return _with_corners(case, criterion, ("mal", "boxes", "local"))


@program(tolerance=SINGLE, syncs=2)
def grounding_dino(case: Case) -> Run:
    """loss/loss_grounding_dino.py: one-hot maps of the tokens of each class, ``masked_select`` of the text."""
    logits, maps = leaf(case.normal(2, Q, 5).float()), tuple(case.whole(2, C, 5) for _ in range(2))
    seen = case.mask(2, 1, 5).expand(2, Q, 5)
    criterion = _criterion("loss_grounding_dino", "GroundingDinoImageLoss", None, 0.25, [])
    return Match(case).run(criterion, ("labels", "boxes", "cardinality"), logits=logits, label_maps=maps, text_mask=seen)


@program(kinds=("full",), tolerance=SINGLE, stops_at="if source_masks.numel() == 0")
def rf_detr(case: Case) -> Run:
    """loss/loss_rf_detr.py: masks at points that are drawn, for all slots in the block; a branch on how many there are."""
    return Match(case).run(_criterion("loss_rf_detr", "RfDetrImageLoss", None, C, 0.25, [], 1, 2), ("masks",))


@program(kinds=("random",), tolerance=SINGLE, stops_at="linear_sum_assignment(c[i])")
def detr_matcher(case: Case) -> Run:
    """loss/loss_for_object_detection.py: rows as targets; scipy matches them on the host, an image at a time."""
    match = Match(case)
    loss = _from("transformers.loss.loss_utils", "LOSS_MAPPING")["ForObjectDetection"]
    config = _from("transformers", "DetrConfig")(num_labels=C - 1)

    def run() -> Any:
        labels = [{k: v[real] for k, v in t.items()} for t, real in zip(match.targets, match.real, strict=True)]
        return loss(match.outputs["logits"], labels, "cpu", match.outputs["pred_boxes"], config)[0]

    return [match.outputs["logits"], match.outputs["pred_boxes"]], run


# -- timm, torchmetrics, torchvision: functions of rows ----------------------------------------------------------------------


def _timm(name: str, label: str, *args: Any, dense: bool = True, tolerance: float = SINGLE, **options: Any) -> None:
    def make(case: Case) -> Run:
        loss = _from("timm.loss", name)(*args, **options).double()
        x, mask = leaf(case.normal(6, C)), case.mask(6)
        target = case.whole(2, 6, C).double() if dense else case.whole(C, 6)
        return [x], lambda: loss(x[mask], target[mask])

    make.__name__ = f"timm_{label}"
    program(tolerance=tolerance)(make)


_timm("AsymmetricLossMultiLabel", "asymmetric_multi_label", tolerance=1e-12)
_timm("AsymmetricLossSingleLabel", "asymmetric_single_label", dense=False, tolerance=1e-12)
_timm("LabelSmoothingCrossEntropy", "label_smoothing", dense=False, tolerance=1e-12)
_timm("SoftTargetCrossEntropy", "soft_target", tolerance=1e-12)
_timm("BinaryCrossEntropy", "binary", dense=False)
_timm("BinaryCrossEntropy", "binary_with_threshold", target_threshold=0.2, sum_classes=True)
_timm("PolyCrossEntropy", "poly", dense=False)
_timm("PolyBinaryCrossEntropy", "poly_binary", gamma=2.0, alpha=0.3, reduction="batchmean")
_timm("DistributionBalancedLoss", "distribution_balanced", [3, 2, 2, 1], 10)
_timm("ZlprLoss", "zlpr")
_timm("TwoWayLoss", "two_way")


@program(tolerance=SINGLE)
def torchmetrics_regression(case: Case) -> Run:
    """torchmetrics.functional: errors that count what they have seen."""
    metrics = importlib.import_module("torchmetrics.functional")
    x, y, mask = leaf(case.normal(6, C)), leaf(case.normal(6, C)), case.mask(6)

    def run() -> Any:
        a, b = x[mask], y[mask]
        return (
            metrics.mean_squared_error(a, b),
            metrics.mean_absolute_error(a, b),
            metrics.symmetric_mean_absolute_percentage_error(a, b),
            metrics.kl_divergence(a.softmax(1), b.softmax(1)),
            metrics.scale_invariant_signal_noise_ratio(a, b).mean(),
            metrics.pairwise_cosine_similarity(a, b).sum(),
        )

    return [x, y], run


@program(kinds=("random",), stops_at="if num_obs == 1")
def torchmetrics_pearson(case: Case) -> Run:
    """torchmetrics.functional.pearson_corrcoef: a branch on how many there are."""
    correlation = _from("torchmetrics.functional", "pearson_corrcoef")
    x, y, mask = leaf(case.normal(6, C)), leaf(case.normal(6, C)), case.mask(6)
    return [x, y], lambda: correlation(x[mask][:, 0], y[mask][:, 0])


@program()
def torchvision_ops(case: Case) -> Run:
    """torchvision.ops: each loss and the overlaps of all with all."""
    ops = importlib.import_module("torchvision.ops")
    pred, target, mask = leaf(case.boxes(6) / 100), leaf(case.boxes(6) / 100), case.mask(6)

    def run() -> Any:
        a, b = pred[mask], target[mask]
        return (
            ops.generalized_box_iou_loss(a, b, reduction="sum"),
            ops.distance_box_iou_loss(a, b, reduction="mean"),
            ops.complete_box_iou_loss(a, b, reduction="none").sum(),
            ops.sigmoid_focal_loss(a, (b > 0.5).double(), reduction="mean"),
            ops.box_iou(a, b).sum() + ops.generalized_box_iou(a, b).sum(),
            ops.box_convert(a, "xyxy", "cxcywh").sum(),
        )

    return [pred, target], run


@program(kinds=("random",), stops_at="mask_targets.numel() == 0")
def torchvision_mask_rcnn(case: Case) -> Run:
    """torchvision/models/detection/roi_heads.py, ``maskrcnn_loss``: masks resampled, and a branch on how many there are."""
    loss = _from("torchvision.models.detection.roi_heads", "maskrcnn_loss")
    logits, mask = leaf(case.normal(6, C, 4, 4)), case.mask(6)
    boxes, masks, labels, index = case.boxes(6) / 10, case.uniform(3, 8, 8) > 0.5, case.whole(C, 3), case.whole(3, 6)
    return [logits], lambda: loss(logits[mask], [boxes[mask]], [masks], [labels], [index[mask]])
