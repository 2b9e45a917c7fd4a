"""What does an ``atc`` command line say? Its options, read as a shell and atc read them, and written so that a shell keeps them.

The options are those of ``api/atc/atc_flags.cc`` of the open GE sources (CANN 2026); how words become options follows
``api/atc/cmd_flag_info.cc`` there: ``--a=b`` and ``--a b``, one dash as good as two, ``-`` as good as ``_``, and a beginning of a
name is enough where only one name begins so.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace

from fixshape._check import shown
from fixshape.errors import UsageError

MOST_CHARACTERS = 1 << 20
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
_SAFE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
_PIECE = re.compile(r"--?\w.*|[^=]*:[-\d,~]*|[-\d,~]+")  # what an unquoted ; or a lost \ takes off the command
_BREAKS = ";&|<>\n"


@dataclass(frozen=True, slots=True)
class AtcCommand:
    """An ``atc`` command line.

    It holds what was written, legal or not; :func:`~fixshape.export.check_atc` judges it. ``str()`` gives a line for a shell.

    Args:
        options: (name, value) in order, names as atc spells them; of those that come twice the last one counts.
        strays: words that belong to no option, each with the option before it.
        unfinished: options at the end that lack their value.
        cut: what a shell does not hand to atc, because a ``;`` or the end of a line before it is not quoted.
        meant: with ``cut``: the same command with that part in it, as it was most likely meant.

    Example:
        >>> command = parse_atc("atc --framework 5 --input_shape 'x:1,3;y:1'")
        >>> command.get("framework"), str(command.with_options(framework="1"))
        ('5', 'atc --framework=1 --input_shape="x:1,3;y:1"')
    """

    options: tuple[tuple[str, str], ...]
    strays: tuple[tuple[str, str], ...] = ()
    unfinished: tuple[str, ...] = ()
    cut: str = ""
    meant: AtcCommand | None = None

    def get(self, name: str) -> str:
        """The value of an option, ``""`` where it is not given."""
        return dict(self.options).get(name, "")

    def with_options(self, **values: str | None) -> AtcCommand:
        """The same command with other values: one that is there keeps its place, ``None`` takes it away."""
        current = dict(self.options) | values
        return replace(self, options=tuple((name, value) for name, value in current.items() if value is not None))

    @property
    def words(self) -> list[str]:
        """The command and its options, each quoted so that a shell keeps it."""
        return ["atc", *(f"--{name}={_quoted(value)}" for name, value in self.options)]

    def __str__(self) -> str:
        return " ".join(self.words)


def parse_atc(text: str) -> AtcCommand:
    r"""Reads a command line as somebody wrote it.

    Shell variables are not known here: ``$SOC`` stays as it is.

    Args:
        text: ``"atc --model=m.onnx --framework=5 ..."``, on one line or with ``\`` at the ends of lines; the word ``atc`` may be
            a path, or missing.

    Returns:
        The command; options that atc does not have are in it.

    Raises:
        UsageError: a quotation mark is not closed, it is another program's command, or it is longer than a million characters.

    Example:
        >>> command = parse_atc("atc --model=m.onnx --dynamic_dims=1,2;3,4")
        >>> command.get("dynamic_dims"), command.cut, command.meant.get("dynamic_dims")
        ('1,2', '3,4', '1,2;3,4')
    """
    if len(text) > MOST_CHARACTERS:
        raise UsageError(f"atc: the command has {len(text):,} characters, expected one command of at most {MOST_CHARACTERS:,}.")
    text = re.sub(r"\\\r?\n[ \t]*", " ", text.strip()).replace("\r\n", "\n")
    words, broken, rest = _words(text)
    words = _arguments(words, text)
    if broken.startswith((";", "\n")) and rest and _PIECE.fullmatch(rest[0]):
        meant = _command(_arguments(_words(text, "&|<>")[0], text), redirected=False)
        return replace(_command(words, redirected=False), cut=" ".join(rest), meant=meant)
    return _command(words, redirected=broken.startswith((">", "<")))


def _words(text: str, breaks: str = _BREAKS) -> tuple[list[str], str, list[str]]:
    """The words of the first command, what ends it, and the words after that."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=breaks)
    lexer.whitespace_split, lexer.commenters = True, ""
    lexer.whitespace = " \t" if "\n" in breaks else " \t\n"
    try:
        words = list(lexer)
    except ValueError:
        raise UsageError(f"atc: a quotation mark is not closed in {shown(text)}.") from None
    for index, word in enumerate(words):
        if word and set(word) <= set(breaks):
            return words[:index], word, words[index + 1 :]
    return words, "", []


def _arguments(words: list[str], text: str) -> list[str]:
    """What follows the word ``atc``; settings of the environment may stand before it."""
    for index, word in enumerate(words):
        if re.fullmatch(r"(.*/)?atc(\.bin)?", word):
            return words[index + 1 :]
        if word.startswith("-"):
            return words[index:]
        if not re.match(r"[A-Za-z_]\w*=", word):
            break
    raise UsageError(f"atc: {shown(text)} is not a command of atc. Give one such as 'atc --model=m.onnx --framework=5 ...'.")


def _command(words: list[str], *, redirected: bool) -> AtcCommand:
    options: dict[str, str] = {}
    strays: list[tuple[str, str]] = []
    unfinished = []
    left = iter(words)
    for word in left:
        if not re.match(r"--?[A-Za-z]", word):
            strays.append((next(reversed(options), ""), word))
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
        options[name] = value
    if redirected and strays and strays[-1][1].isdigit():
        strays.pop()  # the 2 of 2>&1
    return AtcCommand(tuple(options.items()), tuple(strays), tuple(unfinished))


def _full(name: str) -> str:
    """The option that a beginning stands for, as getopt_long has it; what is unknown stays."""
    begins = [option for option in OPTIONS if option.startswith(name)]
    if name == "h":
        return "help"
    return begins[0] if name not in OPTIONS and len(begins) == 1 else name


def _quoted(value: str) -> str:
    if _SAFE.fullmatch(value):
        return value
    return shlex.quote(value) if re.search(r'["\\`!]', value) else f'"{value}"'
