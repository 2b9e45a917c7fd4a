"""The names of the ops that are elementwise: an explicit list, as what is not known must not be guessed at."""

from __future__ import annotations

UNARY = """
abs absolute acos acosh alias angle arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh bfloat16 bool byte ceil
celu char clamp clamp_max clamp_min clip clone conj contiguous cos cosh deg2rad detach digamma double elu entr erf erfc erfinv
exp exp2 expit expm1 fix float floor frac gelu half hardshrink hardsigmoid hardswish hardtanh int invert isfinite isinf isnan
isneginf isposinf isreal leaky_relu lgamma log log10 log1p log2 logical_not logit logsigmoid long mish nan_to_num ndtr neg
negative pos positive rad2deg reciprocal relu relu6 round rsqrt selu sgn short sigmoid sign signbit silu sin sinc sinh softplus
softshrink softsign sqrt square tan tanh tanhshrink threshold trunc bitwise_not zeros_like ones_like full_like log_ndtr
requires_grad cpu cuda i0 erfcx polygamma fill zero gammaln
"""
BINARY = """
add addcdiv addcmul and arctan2 atan2 bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift copysign div
divide eq float_power floor_divide floordiv fmax fmin fmod ge greater greater_equal gt heaviside hypot isclose ldexp le lerp less
less_equal logaddexp logaddexp2 logical_and logical_or logical_xor lshift lt masked_fill maximum minimum mod mul multiply ne
nextafter not_equal or pow remainder rshift rsub sub subtract true_divide truediv xlogy xlog1py xor copy gcd lcm prelu rdiv
"""
