"""What does an ``atc`` command line say? Its options, read as a shell and atc read them, and written so that a shell keeps them.

The options are those of ``api/atc/atc_flags.cc`` of the open GE sources (CANN 2026); how words become options follows
``api/atc/cmd_flag_info.cc`` there: ``--a=b`` and ``--a b``, one dash as good as two, ``-`` as good as ``_``, and a beginning of a
name is enough where only one name begins so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fixshape.export._command_line import hyphened, is_dashed, narrow, quoted, read_call

GEAR_OPTIONS = ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims")
_ZERO_ONE = ("0", "1")
# Options with few values; None where a value is free.
OPTIONS: dict[str, tuple[str, ...] | None] = {
    **dict.fromkeys(
        (
            "ac_parallel_enable", "aicore_num", "allow_hf32", "auto_tune_mode", "build_config", "cal_conf", "check_report",
            "cluster_config", "compress_weight_conf", "compression_optimize_conf", "customize_dtypes", "ddk_version", "debug_dir",
            "device_id", "dynamic_batch_size", "dynamic_dims", "dynamic_image_size", "enable_attr_compression",
            "enable_compress_weight", "enable_scope_fusion_passes", "enable_single_stream", "enable_small_channel",
            "export_compile_stat", "fusion_switch_file", "h2d_overlapped_with_compute", "hccl_sub_comm_config", "help",
            "host_env_cpu", "host_env_os", "input_format", "input_fp16_nodes", "input_hint_shape", "input_shape",
            "input_shape_range", "insert_op_conf", "is_input_adjust_hw_layout", "is_output_adjust_hw_layout", "is_weight_clip",
            "jit_compile", "json", "keep_dtype", "mdl_bank_path", "model", "modify_mixlist", "multi_stream_parallel_mode", "om",
            "oo_constant_folding", "oo_dead_code_elimination", "oo_level", "op_bank_path", "op_compiler_cache_dir",
            "op_debug_config", "op_name_map", "op_precision_mode", "optimization_switch", "optypelist_for_implmode", "out_nodes",
            "output", "output_type", "quant_dumpable", "raw_ge_options", "raw_ge_options_ignore_unsupported",
            "save_original_model", "singleop", "soc_version", "static_model_ops_lower_limit", "target",
            "tiling_schedule_optimize", "topo_sorting_mode", "weight",
        )
    ),
    **dict.fromkeys(("atomic_clean_policy", "deterministic", "disable_reuse_memory", "display_model_info"), _ZERO_ONE),
    **dict.fromkeys(("dump_mode", "sparsity", "status_check", "virtual_type"), _ZERO_ONE),
    "buffer_optimize": ("l1_optimize", "l2_optimize", "off_optimize"),
    "core_type": ("AiCore", "VectorCore"),
    "deterministic_level": ("0", "1", "2"),
    "external_weight": ("0", "1", "2"),
    "framework": ("0", "1", "3", "5"),
    "log": ("debug", "info", "warning", "error", "null"),
    "mode": ("0", "1", "3", "5", "6", "7", "30"),
    "op_compiler_cache_mode": ("enable", "disable", "force"),
    "op_debug_level": ("0", "1", "2", "3", "4"),
    "op_select_implmode": ("high_precision", "high_performance", "high_precision_for_all", "high_performance_for_all"),
    "precision_mode": (
        "force_fp16", "force_fp32", "cube_fp16in_fp32out", "allow_mix_precision", "allow_fp32_to_fp16",
        "must_keep_origin_dtype", "allow_mix_precision_fp16", "allow_mix_precision_bf16", "allow_fp32_to_bf16",
    ),
    "precision_mode_v2": (
        "fp16", "origin", "cube_fp16in_fp32out", "mixed_float16", "mixed_bfloat16", "cube_hif8", "mixed_hif8",
    ),
    "shape_generalized_build_mode": ("shape_generalized", "shape_precise"),
}  # fmt: skip
_SWITCHES = {"help", "raw_ge_options_ignore_unsupported"}  # a value only after an equals sign
_SIZES = re.compile(r"[^=\s]*:[-\d,~]*|[-\d,;~]+")
_SHAPED = ("input_shape", "input_shape_range", *GEAR_OPTIONS)  # values of punctuation and digits


@dataclass(frozen=True, slots=True)
class AtcCommand:
    """An ``atc`` command line.

    It holds what was written, legal or not; :func:`~fixshape.export.check_atc` judges it. ``str()`` gives a line for a shell.

    Args:
        options: (name, value) in order, names as atc spells them; of those that come twice the last one counts.
        strays: words that belong to no option.
        unfinished: options at the end that lack their value.
        repeated: options that come more than once.
        variables: what only the shell can fill in, ``$SOC``; every other ``$`` is a letter like others.
        cut: what a shell does not hand to atc, because a ``;`` or the end of a line before it is not quoted.
        meant: the command that was most likely meant, where it is another: with the part that was cut off, hyphens for dashes,
            ASCII for the punctuation of an input method, and without the spaces that took a value apart.

    Example:
        >>> command = parse_atc("atc --framework 5 --input_shape 'x:1,3;y:1'")
        >>> command.get("framework"), str(command.with_options(framework="1"))
        ('5', 'atc --framework=1 --input_shape="x:1,3;y:1"')
    """

    options: tuple[tuple[str, str], ...]
    strays: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    variables: frozenset[str] = frozenset()
    cut: str = ""
    meant: AtcCommand | None = None

    def get(self, name: str) -> str:
        """The value of an option, ``""`` where it is not given."""
        return dict(self.options).get(name, "")

    def is_open(self, name: str) -> bool:
        """Whether the value of an option is one that only the shell can fill in."""
        value = self.get(name)
        return any(variable in value for variable in self.variables)

    def with_options(self, **values: str | None) -> AtcCommand:
        """The same command with other values: one that is there keeps its place, ``None`` takes it away."""
        current = dict(self.options) | values
        return replace(self, options=tuple((name, value) for name, value in current.items() if value is not None))

    @property
    def words(self) -> list[str]:
        """The command and its options, each quoted so that a shell keeps it."""
        return ["atc", *(quoted(f"--{name}={value}", self.variables) for name, value in self.options)]

    def __str__(self) -> str:
        return " ".join(self.words)


def parse_atc(text: str) -> AtcCommand:
    r"""Reads a command line as somebody wrote it.

    Settings before it, as in ``bs=4; atc ...``, are put in; other variables of the shell are not known, and ``$SOC`` stays.

    Args:
        text: ``"atc --model=m.onnx --framework=5 ..."``, on one line or with ``\`` at the ends of lines. Before the word ``atc``
            there may be a path, sudo, docker, settings or other commands; a text that begins with an option needs no such word.

    Returns:
        The command; options that atc does not have are in it.

    Raises:
        UsageError: a quotation mark is not closed, it is another program's command or there are several of atc, or it is longer
            than a million characters.

    Example:
        >>> command = parse_atc("atc --model=m.onnx --dynamic_dims=1,2;3,4")
        >>> command.get("dynamic_dims"), command.cut, command.meant.get("dynamic_dims")
        ('1,2', '3,4', '1,2;3,4')
    """
    call = read_call(text, "atc", example="atc --model=m.onnx --framework=5 ...", bare=True)
    read, meant = (replace(_command(words), variables=call.variables) for words in (call.words, _mended(call.meant)))
    meant = replace(meant, options=tuple((name, plain_value(name, value)) for name, value in meant.options), repeated=())
    return replace(read, cut=call.cut, meant=None if meant == replace(read, repeated=()) else meant)


def _mended(words: Sequence[str]) -> list[str]:
    """The words with hyphens, and with the values whole that spaces took apart."""
    mended: list[str] = []
    for word in words:
        before = mended[-1] if mended else ""
        bare = before.startswith("--") and "=" not in before and before[2:] not in _SWITCHES  # it waits for its value
        if is_dashed(word):
            mended.append(hyphened(word))
        elif word.startswith("=") and bare:  # --model =m.onnx
            mended[-1] += word
        elif before.endswith("=") and before.startswith("--") and not word.startswith("-"):
            mended[-1] += word
        elif _SIZES.fullmatch(word) and re.search(r"[,;:]$", before) and ("=" in before or len(mended) > 1):  # x:1, 3
            mended[-1] += word
        elif not bare and word.partition("=")[0] in OPTIONS and "=" in word:
            mended.append(f"--{word}")
        else:
            mended.append(word)
    return mended


def plain_value(name: str, value: str) -> str:
    """The value without the signs of an input method."""
    return narrow(value) if name in _SHAPED else value.strip("\u201c\u201d\u2018\u2019")


def _command(words: Sequence[str]) -> AtcCommand:
    options: dict[str, str] = {}
    strays: list[str] = []
    unfinished, repeated = [], []
    left = iter(words)
    for word in left:
        if not re.match(r"--?[A-Za-z]", word):
            strays.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = _full(name.replace("-", "_"))
        if not equals and name in _SWITCHES:
            value = "true"
        elif not equals:
            following = next(left, None)
            if following is None:
                unfinished.append(name)
                continue
            value = following
        if name in options:
            repeated.append(name)
        options[name] = value
    return AtcCommand(tuple(options.items()), tuple(strays), tuple(unfinished), tuple(dict.fromkeys(repeated)))


def _full(name: str) -> str:
    """The option that a beginning stands for, as getopt_long has it; what is unknown stays."""
    begins = [option for option in OPTIONS if option.startswith(name)]
    if name == "h":
        return "help"
    return begins[0] if name not in OPTIONS and len(begins) == 1 else name
