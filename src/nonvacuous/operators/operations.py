"""One word for each kind of computation, whether a module, a function, a method or an aten operator does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

UNKNOWN = "unknown"
REALS = (torch.float32, torch.float64)

#: Word → names of functions, tensor methods and aten operators that compute it.
NAMES: dict[str, tuple[str, ...]] = {
    "linear": ("linear",),
    "convolution": ("conv1d", "conv2d", "conv3d", "convolution", "_convolution"),
    "transposed_convolution": ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    "batch_norm": ("batch_norm", "_native_batch_norm_legit_no_training"),
    "layer_norm": ("layer_norm", "native_layer_norm"),
    "instance_norm": ("instance_norm",),
    "group_norm": ("group_norm", "native_group_norm"),
    "rms_norm": ("rms_norm",),
    "max_pool": ("max_pool1d", "max_pool2d", "max_pool3d", "_max_pool2d", "_max_pool1d", "_max_pool3d"),
    "average_pool": ("avg_pool1d", "avg_pool2d", "avg_pool3d"),
    "adaptive_average_pool": ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    "adaptive_max_pool": ("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    "relu": ("relu", "relu_"),
    "relu6": ("relu6",),
    "leaky_relu": ("leaky_relu", "leaky_relu_"),
    "prelu": ("prelu", "_prelu_kernel"),
    "elu": ("elu", "elu_"),
    "selu": ("selu",),
    "gelu": ("gelu",),
    "silu": ("silu", "silu_"),
    "mish": ("mish",),
    "softplus": ("softplus",),
    "sigmoid": ("sigmoid",),
    "hardsigmoid": ("hardsigmoid",),
    "hardswish": ("hardswish", "hardswish_"),
    "hardtanh": ("hardtanh", "hardtanh_"),
    "clamp": ("clamp", "clamp_", "clip"),
    "tanh": ("tanh",),
    "softmax": ("softmax", "_softmax"),
    "log_softmax": ("log_softmax", "_log_softmax"),
    "absolute": ("abs",),
    "attention": ("scaled_dot_product_attention", "multi_head_attention_forward"),
    "add": ("add", "iadd", "add_", "__add__", "__radd__", "__iadd__"),
    "subtract": ("sub", "isub", "sub_", "subtract", "__sub__", "__rsub__", "rsub"),
    "negate": ("neg", "negative", "__neg__"),
    "multiply": ("mul", "imul", "mul_", "multiply", "__mul__", "__rmul__"),
    "divide": ("truediv", "div", "div_", "true_divide", "__truediv__"),
    "matrix_product": ("matmul", "bmm", "mm", "__matmul__", "einsum"),
    "concatenate": ("cat", "concat", "concatenate"),
    "stack": ("stack",),
    "chunk": ("chunk", "split"),
    "index": ("getitem", "__getitem__", "select", "slice", "narrow", "index_select"),
    "flatten": ("flatten",),
    "reshape": ("reshape", "view", "unflatten", "_unsafe_view", "squeeze", "unsqueeze"),
    "permute": ("permute", "transpose", "movedim", "t", "swapaxes", "mT"),
    "copy": ("contiguous", "clone", "detach", "to", "float", "double", "alias"),
    "dropout": ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "dropout_"),
    "mean": ("mean",),
    "sum": ("sum",),
    "pad": ("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"),
    "interpolate": ("interpolate", "upsample"),
    "embedding": ("embedding",),
    "normalize": ("normalize",),
    "compare": ("gt", "lt", "ge", "le", "eq", "ne", "__bool__", "any", "all", "isnan", "isfinite", "item"),
    "shape": ("size", "getattr", "shape", "dim", "numel", "__get__"),
}
SHAPELY = ("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad", "itemsize", "nbytes")
"""Attributes of a tensor that do not depend on its numbers."""

READERS = (
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
    "__complex__",
    "__contains__",
    "item",
    "tolist",
    "numpy",
    "equal",
    "allclose",
)
"""Functions that hand a tensor's numbers to Python, where no tracer follows: a branch, or a factor that only looks constant."""

#: Functions that torch.nn.functional chooses by an argument, and that are all called ``fn``.
DISPATCHED: dict[Any, str] = {
    getattr(F, name): name
    for name in (f"{kind}max_pool{d}d" for kind in ("", "adaptive_", "fractional_") for d in (1, 2, 3))
    if hasattr(F, name)
}
WORDS = {name: word for word, names in NAMES.items() for name in names}

MODULES: dict[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear,),
    "transposed_convolution": (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    "convolution": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    "instance_norm": (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    "batch_norm": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    "layer_norm": (nn.LayerNorm,),
    "group_norm": (nn.GroupNorm,),
    "rms_norm": tuple(kind for kind in [getattr(nn, "RMSNorm", None)] if kind),
    "max_pool": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    "adaptive_max_pool": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    "average_pool": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    "adaptive_average_pool": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    "relu6": (nn.ReLU6,),
    "relu": (nn.ReLU,),
    "leaky_relu": (nn.LeakyReLU,),
    "prelu": (nn.PReLU,),
    "elu": (nn.ELU, nn.CELU),
    "selu": (nn.SELU,),
    "gelu": (nn.GELU,),
    "silu": (nn.SiLU,),
    "mish": (nn.Mish,),
    "softplus": (nn.Softplus,),
    "sigmoid": (nn.Sigmoid,),
    "hardsigmoid": (nn.Hardsigmoid,),
    "hardswish": (nn.Hardswish,),
    "hardtanh": (nn.Hardtanh,),
    "tanh": (nn.Tanh,),
    "softmax": (nn.Softmax, nn.Softmax2d),
    "log_softmax": (nn.LogSoftmax,),
    "attention": (nn.MultiheadAttention,),
    "recurrent": (nn.RNNBase, nn.RNNCellBase),
    "flatten": (nn.Flatten,),
    "reshape": (nn.Unflatten,),
    "permute": (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
    "identity": (nn.Identity,),
    "dropout": (nn.modules.dropout._DropoutNd,),
    "pad": (
        nn.modules.padding._ConstantPadNd,
        nn.modules.padding._ReflectionPadNd,
        nn.modules.padding._ReplicationPadNd,
        nn.modules.padding._CircularPadNd,
    ),
    "interpolate": (nn.Upsample,),
    "embedding": (nn.Embedding, nn.EmbeddingBag),
    "bilinear": (nn.Bilinear,),
}


def of_module(module: nn.Module) -> str:
    """The word for a module, by isinstance; ``unknown`` if there is none."""
    return next((word for word, kinds in MODULES.items() if isinstance(module, kinds)), UNKNOWN)


def of_function(function: Callable[..., Any] | str | None) -> str:
    """The word for a function, a method's name or an aten operator; ``unknown`` if there is none."""
    return WORDS.get(name_of(function), UNKNOWN)


def name_of(function: Callable[..., Any] | str | None) -> str:
    """A function's bare name: ``add`` for operator.add, Tensor.add, "add" and aten.add.Tensor."""
    if isinstance(function, str):
        return function
    if function in DISPATCHED:
        return DISPATCHED[function]
    schema = getattr(function, "_schema", None)
    if schema is not None:
        name = str(schema.name).partition("::")[2]
        return "max_pool2d" if name.startswith("max_pool2d") else name
    return str(getattr(function, "__name__", type(function).__name__))


def word_of_call(
    word: str, name: str, arguments: Sequence[Any], keywords: Mapping[str, Any], plain: Callable[[Any], bool]
) -> str:
    """The word for this very call: ``unknown`` where the arguments make another map of it than the word says.

    An attribute that holds numbers (``x.T``, ``x.real``) is no shape, and a conversion to integers is no copy. ``plain`` says whether an
    argument is something else than a tensor.
    """
    rest = [*arguments[1:], *keywords.values()]
    if name == "getattr" and not (rest and rest[0] in SHAPELY):
        return UNKNOWN
    if word == "copy" and any(not plain(part) or (isinstance(part, torch.dtype) and part not in REALS) for part in rest):
        return UNKNOWN
    return word
