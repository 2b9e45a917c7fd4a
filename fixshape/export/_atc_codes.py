"""What does a code that atc or the Ascend runtime prints mean, and what is done about it?

The numbers are those of ``base/common/error_registry/error_registry.cc`` and ``docs/zh/user_guides/error_codes`` of the open GE
sources, and of ``acl_base.h`` for the runtime; E20001 and EZ300x stand in logs that users show (Tlntin/qwen-ascend-llm#11,
Ascend/samples#11, vllm-project/vllm-ascend#811). The words are fixshape's own: the vendor's change from version to version, the
numbers do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from textwrap import fill


@dataclass(frozen=True, slots=True)
class AtcCode:
    """A code, explained.

    Args:
        title: in a few words.
        what: what was found.
        why: where it comes from most often.
        do: what to write or do instead.
    """

    title: str
    what: str
    why: str
    do: str


_GEARS = "--dynamic_batch_size, --dynamic_image_size or --dynamic_dims"
_CHECK = "fixshape atc --check 'atc ...' names the rule and writes the command anew."

ATC_CODES: dict[str, AtcCode] = {
    "E10001": AtcCode(
        "a value that the option does not take",
        "The message names the option, its value and a reason. Many checks share this code.",
        "Often: the model leaves sizes open and no --input_shape is given, or one with another name than the model's (in Value"
        " [-1] for parameter [NAME], NAME is the model's); NHWC for an ONNX model; --dynamic_dims with AIPP, without a -1, or"
        " with an open input that is not listed; a hint shape beside gears.",
        f"Go by the reason. {_CHECK}",
    ),
    "E10002": AtcCode(
        "--input_shape cannot be read",
        "A part of it is not NAME:DIM,DIM,..., or a dim is no whole number.",
        "A part without a name, a comma where ; belongs, a space, or a size with a decimal point.",
        '--input_shape="images:1,3,800,1344;sizes:1,2": digits and -1 only, ; between inputs, quotation marks around all of it.',
    ),
    "E10003": AtcCode(
        "an option's value is of the wrong form",
        "The message names the option, its value and a reason.",
        f"Most often {_GEARS} with spaces, with the wrong separator, or with other numbers than there are -1; or"
        " --dynamic_image_size with a format other than NCHW and NHWC.",
        'Batch: "1,2,4". Image: "800,1344;1344,800". Dims: "1,320;4,320", one number for each -1. No spaces.',
    ),
    "E10004": AtcCode(
        "an option is empty",
        "The message names it.",
        "Gears without --input_shape; --mode=1 without --om and --json; a shell variable that is not set.",
        "Give the option a value. With gears, --input_shape lists every input, with -1 where the gears go.",
    ),
    "E10005": AtcCode(
        "an option that is true or false",
        "Its value is neither.",
        "1 and 0, or True with a capital, are other words.",
        "Write true or false.",
    ),
    "E10006": AtcCode("an option that is 1 or 0", "Its value is neither.", "true and false are other words.", "Write 1 or 0."),
    "E10007": AtcCode(
        "--framework is missing or unknown",
        "atc does not tell the kind of a model from its file.",
        "The option was left away, or a shell cut the command before it.",
        "--framework=5 for ONNX, 3 for TensorFlow, 1 for MindSpore, 0 for Caffe.",
    ),
    "E10008": AtcCode(
        "a Caffe model without weights",
        "--framework=0 and no --weight.",
        "A Caffe model is two files; or the model is no Caffe model at all.",
        "--weight=model.caffemodel, or the --framework that the model is of.",
    ),
    "E10009": AtcCode(
        "more than one kind of gears",
        f"{_GEARS}, and ranges, exclude one another.",
        "Batch and image sizes that both vary, each with its own option.",
        "--dynamic_dims with --input_format=ND says both: each gear has a number for every -1.",
    ),
    "E10010": AtcCode(
        "--log has another level",
        "The level is not one that there is.",
        "A level of another tool.",
        "debug, info, warning, error or null.",
    ),
    "E10011": AtcCode(
        "a size below 1 and no gears",
        "Without gears each size in --input_shape is at least 1.",
        "-1 for an open axis, or 0; older CANN says it of every -1 without gears.",
        "Write the size, or add gears for the -1.",
    ),
    "E10012": AtcCode(
        "batch gears and an input without axes",
        "--dynamic_batch_size is set, and an input has no first axis.",
        "A scalar input, written as name: with nothing after it. The manual shows that as legal, newer sources refuse it.",
        "--dynamic_dims with --input_format=ND takes a scalar beside the gears; or give the input an axis of 1 in the model.",
    ),
    "E10013": AtcCode(
        "a number that is too large",
        "It is no 64-bit number.",
        "A slip of the keyboard, or two numbers without the comma.",
        "Check the digits.",
    ),
    "E10014": AtcCode(
        "a value that cannot be read",
        "The message names the option.",
        "Letters among the digits.",
        "atc --help lists what each takes.",
    ),
    "E10016": AtcCode(
        "a name that the model does not have",
        "--input_shape, or another option, names an input that is not in the model.",
        "The name in the file is another, or a comma stands where ; belongs, so that two inputs were read as one.",
        "fixshape onnx check model.onnx lists the inputs. Separate them by ; within quotation marks.",
    ),
    "E10017": AtcCode(
        "a name that is no input",
        "The node is in the model, and is none of its inputs.",
        "The name of the first operator instead of the name of its input.",
        "Name the graph's inputs: fixshape onnx check model.onnx lists them.",
    ),
    "E10018": AtcCode(
        "-1 outside of the batch",
        "With --dynamic_batch_size only the first axis of an input may be -1. The message has the axis and its value.",
        "The model was exported with height and width, or a length, open as well.",
        "Write sizes at the other axes; or, where they vary too, --dynamic_dims with --input_format=ND.",
    ),
    "E10019": AtcCode(
        "-1 outside of height and width",
        "With --dynamic_image_size exactly height and width are -1, both, in inputs of four axes.",
        "The batch is -1 as well, only one of the two sides is, or an input of another rank has a -1.",
        "One batch size and -1 at both sides; or --dynamic_dims with --input_format=ND.",
    ),
    "E10020": AtcCode(
        "an image gear that is no pair",
        "Each gear of --dynamic_image_size is height,width.",
        "One number for square images, or a comma where ; belongs.",
        'Write "800,800;1344,1344".',
    ),
    "E10021": AtcCode("a path that is too long", "The system opens no longer path.", "Nested folders.", "A shorter --output."),
    "E10022": AtcCode(
        "--output without a name", "It ends in a slash.", "A folder was given.", "--output=folder/name; atc puts .om after it."
    ),
    "E10023": AtcCode(
        "--singleop has no file",
        "The path is no file.",
        "A slip, or a relative path from elsewhere.",
        "Give the path of the .json file.",
    ),
    "E10024": AtcCode("--singleop cannot be opened", "The file cannot be read.", "Rights of the user.", "Make it readable."),
    "E10025": AtcCode(
        "--singleop is no JSON", "The file cannot be parsed; the reason follows.", "A comma too many.", "Mend the JSON."
    ),
    "E10031": AtcCode(
        "batch gears and no open batch",
        "--dynamic_batch_size is set, and no input in --input_shape has -1 at its first axis.",
        "The batch is written as 1, or the -1 stands at another axis.",
        "-1 first: images:-1,3,800,1344. For another axis, --dynamic_dims with --input_format=ND.",
    ),
    "E10032": AtcCode(
        "a JSON file that cannot be parsed", "The reason follows.", "A comma too many, or another file.", "Mend the file."
    ),
    "E10034": AtcCode(
        "AIPP and half precision on one input",
        "AIPP gives its own type to the input that --input_fp16_nodes asks to be fp16.",
        "Both options for the same input.",
        "Take the input out of one of them.",
    ),
    "E10035": AtcCode(
        "too few gears",
        "There is one gear, and atc wants two or more. Older versions print the bound as one less.",
        "A plan of one bucket, or a ; that the shell took for the end of the command.",
        "One gear is a fixed shape: write it in --input_shape and leave the gear option away. Put gears in quotation marks.",
    ),
    "E10036": AtcCode(
        "too many gears",
        "There are more than 100, or 256 on Ascend 950. Older versions print the bound as one more.",
        "Batch sizes times image sizes.",
        "One batch size, or fewer buckets: fixshape plan --buckets 4.",
    ),
    "E10037": AtcCode(
        "gears of different lengths",
        "One gear has another count of numbers than the rest.",
        "A number that was left out, or a comma where ; belongs.",
        "The same count in each: two for images, one for each -1 with --dynamic_dims.",
    ),
    "E10038": AtcCode("a gear with a size below 1", "Every size is at least 1.", "A 0 or a minus sign.", "Leave that gear away."),
    "E10039": AtcCode(
        "a gear that comes twice", "Each gear comes once.", "Two buckets that round to one size.", "Leave one away."
    ),
    "E10040": AtcCode(
        "gears that do not meet a -1",
        "With gears the inputs have -1 axes and no ~.",
        "A range, lo~hi, beside a gear option; or the model has fixed sizes where the command has -1.",
        "-1 where the gears go; or leave the gears away and keep the range.",
    ),
    "E10041": AtcCode(
        "the model cannot be loaded",
        "The file was found and not understood.",
        "Another --framework than the file's; a cut-off download; a model over 2 GB without the files of its weights beside it.",
        "fixshape onnx check model.onnx says whether the file is whole. --framework=5 for ONNX.",
    ),
    "E10045": AtcCode(
        "more -1 than numbers in a gear",
        "--input_shape has more -1 than each gear of --dynamic_dims has numbers.",
        "An input whose -1 was forgotten in the gears.",
        "One number for each -1 over all inputs, in the order of --input_shape.",
    ),
    "E10046": AtcCode(
        "the -1 of all inputs and the gears do not match",
        "The total count of -1 is not the count of numbers in a gear.",
        "The same as E10045.",
        "One number for each -1 over all inputs, in the order of --input_shape.",
    ),
    "E10047": AtcCode(
        "two options that exclude one another", "Both are set.", "Options of two examples, put together.", "Leave one away."
    ),
    "E10048": AtcCode(
        "a range that cannot be read",
        "A part of the range is not n, lo~hi or -1.",
        "--input_shape_range without its brackets, or with two pairs; a bound that is missing.",
        '--input_shape="x:1~8,3,64,64"; --input_shape_range is deprecated.',
    ),
    "E10049": AtcCode(
        "another number of axes than the model has",
        "The shape in the command has more or fewer axes than the input.",
        "The batch was left away, or a scalar got an axis.",
        "As many sizes as the input has axes: fixshape onnx check model.onnx lists them.",
    ),
    "E10050": AtcCode(
        "a size outside of its range",
        "The model's own size is not between the bounds.",
        "A model with that axis fixed.",
        "Widen the range.",
    ),
    "E10052": AtcCode(
        "the AIPP configuration is wrong",
        "The reason follows.",
        "With --dynamic_image_size: crop or padding, or a size other than 0 (static AIPP) or the largest gear (dynamic AIPP).",
        "Go by the reason; preprocess before the model where it cannot be mended.",
    ),
    "E10054": AtcCode(
        "a required option is empty",
        "--soc_version, --output or --model has no value.",
        "It is missing, or a ; without quotation marks ended the command in the shell before it.",
        'Put values with ; in quotation marks: --input_shape="a:1;b:1". ' + _CHECK,
    ),
    "E10055": AtcCode(
        "not supported",
        "The reason follows.",
        "Often a chip and a --mode that do not belong together: Ascend035 is --mode=30.",
        "Go by the reason.",
    ),
    "E10056": AtcCode(
        "two options at the same time",
        "They may not both be set.",
        "An option and its newer form.",
        "Keep the newer: --precision_mode_v2.",
    ),
    "E10057": AtcCode("two options that need one another", "Only one is set.", "--mode=6 without --om.", "Set both."),
    "E10058": AtcCode("an option is not set", "The message names it.", "--dynamic_dims without its gears.", "Set it."),
    "E10059": AtcCode(
        "a call failed", "The call and its reason are in the message.", "Depends on the call.", "Go by the reason."
    ),
    "E10060": AtcCode(
        "an option that is gone",
        "The reason says which.",
        "A command for an older CANN.",
        "Leave it away; auto_tune_mode became the AOE tool.",
    ),
    "E10061": AtcCode(
        "a value that is not in the list",
        "The message has the values that are.",
        "A value of another option or version.",
        "Take one of them.",
    ),
    "E10062": AtcCode(
        "calls in the wrong order", "A call needs another before it.", "Code of the application.", "Go by the message."
    ),
    "E10063": AtcCode(
        "a call to the system failed",
        "The call and its reason are in the message.",
        "Memory, disk, rights or a library.",
        "Go by the reason.",
    ),
    "E10501": AtcCode(
        "an operator without a prototype",
        "The operator's definition is not registered.",
        "ASCEND_OPP_PATH is not set, or a custom operator is not installed.",
        "source set_env.sh of CANN, and install the custom operator's package.",
    ),
    "E11005": AtcCode(
        "a Caffe input without a shape",
        "The shape is neither in the model nor in the command.",
        "A model without dims.",
        "--input_shape for it.",
    ),
    "E11009": AtcCode(
        "a Caffe operator that is not known", "No parser for it.", "A custom layer.", "Its plug-in, or a model in ONNX."
    ),
    "E11016": AtcCode(
        "--out_nodes has a wrong index", "The output is not there.", "A count that starts at 1.", "NAME:0 is the first."
    ),
    "E11017": AtcCode(
        "--out_nodes names no node", "The node is not in the model.", "A name of another export.", "The model's own name."
    ),
    "E13000": AtcCode(
        "a path is empty", "The file does not exist; the reason follows.", "A slip in the path.", "Give a path that exists."
    ),
    "E13001": AtcCode(
        "a file cannot be opened", "The reason follows.", "It is missing, or not readable.", "Check path and rights."
    ),
    "E13002": AtcCode("a path that is too long", "The system opens no longer path.", "Nested folders.", "A shorter path."),
    "E13003": AtcCode("a file cannot be read", "The reason follows.", "Disk, rights, or a folder.", "Go by the reason."),
    "E13004": AtcCode(
        "a file cannot be written", "The reason follows.", "Disk full, or no rights.", "Free space, or another --output."
    ),
    "E13005": AtcCode(
        "a file cannot be parsed",
        "The file is no message of the protocol that --framework names.",
        "Another --framework, or a file that is not whole.",
        "fixshape onnx check model.onnx says whether the file is whole.",
    ),
    "E13009": AtcCode("two operators of one name", "Names are unique.", "An edited graph.", "Rename one of them."),
    "E13010": AtcCode(
        "an operator without a plug-in",
        "No parser for this operator, or for this version of it.",
        "An opset that this CANN does not know, or a custom operator.",
        "Export with opset 11 to 18, or install the operator's package.",
    ),
    "E13014": AtcCode(
        "an operator's attribute is wrong", "The reason follows.", "The export, or a version.", "Go by the reason."
    ),
    "E13023": AtcCode(
        "the .om is too large", "It cannot be written.", "Weights over the limit.", "--external_weight=1, or a smaller model."
    ),
    "E13024": AtcCode("an environment variable is wrong", "The message names it.", "A stale set_env.sh.", "Set it anew."),
    "E13025": AtcCode(
        "an input tensor is wrong", "The reason follows.", "Another shape or type than was built.", "A shape that was built."
    ),
    "E14001": AtcCode(
        "an operator does not take its inputs",
        "Type, shape or attribute of an operator do not fit; the reason follows.",
        "Shapes that were fixed in the graph, as a Reshape with numbers, met by a gear of another size.",
        "fixshape onnx check and fixshape onnx set-batch find such numbers; verify each gear before.",
    ),
    "E16001": AtcCode("the model lacks a node", "Often: it has no input.", "A graph of constants.", "Export the model again."),
    "E16002": AtcCode(
        "an ONNX operator that is not known",
        "No parser for it.",
        "An opset above 18, the default of torch's exporter is newer; or an operator of another domain.",
        "Export with opset_version=18, and look at what was written: fixshape onnx check model.onnx.",
    ),
    "E16004": AtcCode("the ONNX file has no graph", "Nothing to build.", "A broken file.", "Export the model again."),
    "E16005": AtcCode(
        "several opset domains",
        "The file imports more than one, and a node does not say its own.",
        "A custom operator, or a tool that adds domains.",
        "One domain for all nodes, or the domain at each.",
    ),
    "E19010": AtcCode(
        "an operator without a parser",
        "The message names the node, and its type as domain::opset::type.",
        "Older CANN says so where newer ones say E16002: an opset that it does not know, or an operator of somebody's own.",
        "Export with an opset that this CANN knows, 11 to 18 in newer ones; or install the operator's package.",
    ),
    "E19999": AtcCode(
        "an inner error",
        "No check foresaw it. The lines under it say in which step.",
        "After a wrong -1 that was reported and passed over; an operator with a result as long as its values say,"
        " beside gears; an opset domain that is not imported.",
        "Look for another code above it. " + _CHECK,
    ),
    **dict.fromkeys(
        ("E29999", "E39999", "E89999", "EE9999", "EH9999", "EI9999", "EZ9999"),
        AtcCode(
            "an inner error below the graph engine",
            "An operator, its compiler or the runtime failed where no check foresaw it. The lines under it name the step and,"
            " after node: or kernel_name=, the operator.",
            "Shapes or types that this operator does not take on this chip; or memory that another program has written over.",
            "Look for another code above it, and run the model at this size in onnxruntime: fixshape export --verify.",
        ),
    ),
    "E20001": AtcCode(
        "an operator was not compiled",
        "The message names the node and its type. _ascend_mbatch_batch_5 in its name means the gear of index 5.",
        "A size that the operator cannot have, in one gear only where the name says so.",
        "Build with that gear alone as a fixed shape, and run the model at that size in onnxruntime: fixshape export --verify.",
    ),
    "EZ3002": AtcCode(
        "an operator is not supported as it stands",
        "The type is known, and this format, type or shape of it is not.",
        "float64 or int64 where the chip has none, or a format that the chip lacks.",
        "Another dtype in the model, or another operator.",
    ),
    "EZ3003": AtcCode(
        "no kernel for an operator",
        "No library has the operator for this chip.",
        "An operator of the framework that the chip lacks, another --soc_version, or since CANN 8.5 a missing ops package"
        " for it.",
        "Check --soc_version, install the ops package of the chip, or replace the operator.",
    ),
    "145000": AtcCode(
        "a wrong argument at run time", "A call got an argument that it does not take.", "The application.", "See its log."
    ),
    "145011": AtcCode(
        "no address for the gear's input",
        "The model has an input ascend_mbatch_shape_data that says the gear, and it has no memory.",
        "The application made a buffer for each of its own inputs only.",
        "aclmdlGetInputIndexByName(desc, ACL_DYNAMIC_TENSOR_NAME) gives its index; make a buffer for it too.",
    ),
    "145012": AtcCode(
        "the wrong length for the gear's input",
        "Its buffer is of another size.",
        "As 145011.",
        "Ask aclmdlGetInputSizeByIndex for the size.",
    ),
    "145013": AtcCode(
        "a batch that was not built",
        "The batch at run time is none of the gears.",
        "Another size than was built; or a model with --dynamic_dims that is run as one with --dynamic_batch_size.",
        "Pad the batch to the next gear. Call aclmdlSetDynamicBatchSize, SetDynamicHWSize or SetInputDynamicDims as the"
        " model was built; without a call the largest gear runs. aclmdlGetDynamicBatch, GetDynamicHW and GetInputDynamicDims list"
        " the gears that there are.",
    ),
    **dict.fromkeys(
        ("145014", "145015", "145016"),
        AtcCode(
            "AIPP at run time",
            "The parameters of dynamic AIPP do not fit the model.",
            "A model with dynamic AIPP that is run without its parameters, or with others than it was built for.",
            "Set them with aclmdlSetInputAIPP before each run, as the configuration of the build has them.",
        ),
    ),
}
_FAMILIES = {
    "E1": "the graph engine: options, model file, shapes",
    "E2": "the compiler of an operator",
    "E3": "the runtime",
    "EZ": "the library of operators",
    "EE": "the runtime",
    "EH": "the application interface (ACL)",
    "EI": "communication between devices (HCCL)",
    "EJ": "communication between hosts",
    "EK": "the profiler",
    "EL": "the driver",
    "W1": "the graph engine, a warning",
}


def explain_atc_code(code: str) -> str:
    """The text of ``fixshape explain E10018``: what a code of atc means, where it comes from, and what to do.

    Args:
        code: one of ``ATC_CODES``.

    Returns:
        Some paragraphs without a newline at the end.

    Raises:
        KeyError: there is no such code.

    Example:
        >>> print(explain_atc_code("E10018").splitlines()[0])
        E10018: -1 outside of the batch
    """
    entry = ATC_CODES[code]
    parts = [("Where it comes from", entry.why), ("Instead", entry.do)]
    indented = [f"{title}\n" + fill(text, 100, initial_indent="    ", subsequent_indent="    ") for title, text in parts]
    return "\n\n".join([f"{code}: {entry.title}", fill(entry.what, 100), *indented])


def family(code: str) -> str:
    """Which part of CANN a code that is not in the catalogue is of, as far as its beginning tells."""
    return _FAMILIES.get(re.sub(r"^(E[A-Z]|[EW]\d).*", r"\1", code), "another part of CANN")
