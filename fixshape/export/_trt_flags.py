"""Which flags does trtexec know, and what became of those that it no longer does?

Sources: NVIDIA's pages "Migrating trtexec Usage from TensorRT 8.x to 10.x" and "... from TensorRT 10.x to 11.x"
(docs.nvidia.com/deeplearning/tensorrt, api/migration), and samples/common/sampleOptions.cpp of NVIDIA/TensorRT. An option that
its parser does not take ends trtexec with an error.
"""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = ("--minShapes", "--optShapes", "--maxShapes")

# With a value after "=".
_VALUED = """
--onnx --minShapes --optShapes --maxShapes --minShapesCalib --optShapesCalib --maxShapesCalib --shapes --profile --useProfile
--calibProfile --inputIOFormats --outputIOFormats --memPoolSize --avgTiming --profilingVerbosity --loadEngine --saveEngine
--tacticSources --timingCacheFile --builderOptimizationLevel --maxTactics --runtimePlatform --hardwareCompatibilityLevel
--maxAuxStreams --preview --tempdir --tempfileControls --useRuntime --leanDLLPath --weightStreamingBudget --markDebug --sparsity
--layerDeviceTypes --decomposableAttentions --tilingOptimizationLevel --l2LimitForTiling --remoteAutoTuningConfig --device
--useDLACore --staticPlugins --dynamicPlugins --setPluginsToSerialize --safetyPlugins --infStreams --iterations --duration
--warmUp --sleepTime --idleTime --persistentCacheRatio --loadInputs --loadRefOutputs --allocationStrategy --saveDebugTensors
--saveAllDebugTensors --refitFromOnnx --avgRuns --percentile --exportTimes --exportOutput --exportProfile --exportLayerInfo
""".split()

_BARE = """
--refit --stripWeights --stripAllWeights --vc --versionCompatible --pi --pluginInstanceNorm --uint8AsymmetricQuantizationDLA
--excludeLeanRuntime --noCompilationCache --monitorMemory --noTF32 --stronglyTyped --distributiveIndependence --safe
--dumpKernelText --buildDLAStandalone --allowGPUFallback --consistency --restricted --skipInference
--markUnfusedTensorsAsDebugTensors --asyncFileReader --getPlanVersionOnly --noBuilderCache --errorOnTimingCacheMiss
--allowWeightStreaming --ignoreParsedPluginLibs --exposeDMA --noDataTransfers --useManagedMemory --useSpinWait --threads
--useCudaGraph --separateProfileRun --timeDeserialize --timeRefit --verbose --dumpRefit --dumpOutput --dumpRawBindingsToFile
--dumpProfile --dumpLayerInfo --dumpOptimizationProfile --help -h
""".split()

VALUED = frozenset(_VALUED)
CURRENT = VALUED | frozenset(_BARE)
OTHER_MODELS = ("--uff", "--model", "--deploy")
VALUED_ONCE = frozenset(
    {*OTHER_MODELS, "--workspace", "--batch", "--maxBatch", "--minTiming", "--uffInput", "--output", "--calib"}
)
REPEATED = frozenset({"--staticPlugins", "--dynamicPlugins", "--setPluginsToSerialize", "--safetyPlugins"})

CHOICES = {"--allocationStrategy": ("static", "profile", "runtime")}

_PRECISION = "Networks are strongly typed since TensorRT 11: an operator computes in the types that the ONNX file has."
_AUTOCAST = (
    "nothing; convert the file before: python -m modelopt.onnx.autocast --onnx_path model.onnx --output_path model_fp16.onnx"
)
_QUANTIZE = "nothing; put QuantizeLinear and DequantizeLinear into the file before, for example with nvidia-modelopt"
_IMPLICIT = "Caffe, UFF and implicit batches are gone since TensorRT 10."


@dataclass(frozen=True, slots=True)
class Retired:
    """A flag that the parser no longer takes.

    Args:
        why: it is gone.
        way_out: what to write instead.
        becomes: the flag that takes its place with the same value, or ``""`` where nothing does.
        sure: whether a source says that the flag itself is gone, and not only that it is deprecated, or the feature behind it.
        since: the TensorRT whose trtexec was the first without it.
    """

    why: str
    way_out: str
    becomes: str = ""
    sure: bool = True
    since: int = 10


def _renamed(flag: str, *, sure: bool = False) -> Retired:
    return Retired(f"{flag} has taken its place.", flag, flag, sure)


RETIRED: dict[str, Retired] = {
    "--fp16": Retired(_PRECISION, _AUTOCAST, since=11),
    "--bf16": Retired(_PRECISION, _AUTOCAST, since=11),
    "--best": Retired(_PRECISION, _AUTOCAST, since=11),
    "--fp8": Retired(_PRECISION, _QUANTIZE, since=11),
    "--int8": Retired(_PRECISION, _QUANTIZE, since=11),
    "--int4": Retired(_PRECISION, _QUANTIZE, since=11),
    "--calib": Retired("Calibration by TensorRT is gone since TensorRT 11.", _QUANTIZE, since=11),
    "--precisionConstraints": Retired(_PRECISION, _AUTOCAST, sure=False),
    "--layerPrecisions": Retired(_PRECISION, _AUTOCAST, sure=False),
    "--layerOutputTypes": Retired(_PRECISION, _AUTOCAST, sure=False),
    "--strictTypes": Retired(_PRECISION, _AUTOCAST, sure=False),
    "--directIO": Retired("BuilderFlag::kDIRECT_IO is gone since TensorRT 11.", "nothing", sure=False),
    "--workspace": Retired("Memory is given by pool since TensorRT 8.4.", "--memPoolSize=workspace:<MiB>"),
    "--minTiming": Retired("It was removed in TensorRT 10.", "nothing, or --avgTiming=<N> for more timings of each kernel"),
    "--explicitBatch": Retired("The batch is always an axis of its own since TensorRT 10.", "nothing"),
    "--batch": Retired(_IMPLICIT, "the batch as the first number of each shape: --shapes=input:8x3x224x224"),
    "--maxBatch": Retired(_IMPLICIT, "the batch as the first number of each shape: --maxShapes=input:8x3x224x224"),
    "--uff": Retired(_IMPLICIT, "--onnx=<file>, of the same model exported to ONNX"),
    "--uffInput": Retired(_IMPLICIT, "nothing; an ONNX file names its inputs"),
    "--uffNHWC": Retired(_IMPLICIT, "nothing; an ONNX file has its layout in its operators"),
    "--deploy": Retired(_IMPLICIT, "--onnx=<file>, of the same model exported to ONNX"),
    "--model": Retired(_IMPLICIT, "--onnx=<file>, of the same model exported to ONNX"),
    "--output": Retired(_IMPLICIT, "nothing; an ONNX file names its outputs"),
    "--buildOnly": _renamed("--skipInference", sure=True),
    "--nvtxMode": _renamed("--profilingVerbosity", sure=True),
    "--weightless": _renamed("--stripWeights"),
    "--streams": _renamed("--infStreams"),
    "--plugins": _renamed("--staticPlugins"),
}
