"""Exact simplifications of an ONNX graph that ONNX Runtime does not make by itself.

They concern a convolution whose only use is a max pooling, as in the default network:

- A batch normalisation after the pooling becomes part of the convolution: its scale is positive, so it may be applied
  before the maximum.
- Rows and columns that the pooling drops are not computed: of an odd size, 2 x 2 pooling drops the last.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


def simplify(model: "ModelProto") -> None:
    """Apply both, in place."""
    fold_pooled_normalization(model.graph)
    skip_dropped_rows(model)


def fold_pooled_normalization(graph: "GraphProto") -> None:
    """Make batch normalisations that follow conv -> max-pool part of the convolution."""
    import onnx

    for convolution, pooling, following in list(_pooled_convolutions(graph)):
        weights = _constants(graph, [convolution.input[1], *convolution.input[2:3]])
        if following is None or following.op_type != "BatchNormalization" or weights is None:
            continue
        statistics = _constants(graph, following.input[1:5])
        if statistics is None:
            continue
        gain, shift, mean, variance = statistics
        scale = gain / np.sqrt(variance + _attribute(following, "epsilon", 1e-5))
        if not (scale > 0).all():
            continue
        bias = weights[1] if len(weights) == 2 else 0.0
        names = [f"{convolution.name}_weight_normalized", f"{convolution.name}_bias_normalized"]
        values = [weights[0] * scale[:, None, None, None], shift + (bias - mean) * scale]
        for name, value in zip(names, values, strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
        del convolution.input[1:]
        convolution.input.extend(names)
        pooling.output[0] = following.output[0]
        graph.node.remove(following)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def skip_dropped_rows(model: "ModelProto") -> None:
    """Remove the padding at the end of 3 x 3 convolutions of an odd size that 2 x 2 pooling follows."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    sizes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim[2:]] for value in inferred
    }
    for convolution, pooling, _ in _pooled_convolutions(model.graph):
        is_halved = _attribute(pooling, "kernel_shape", []) == _attribute(pooling, "strides", []) == [2, 2]
        is_plain = not any(_attribute(pooling, "pads", [])) and not _attribute(pooling, "ceil_mode", 0)
        is_odd = all(size % 2 == 1 for size in sizes.get(convolution.output[0], [0]))
        pads = next((attribute for attribute in convolution.attribute if attribute.name == "pads"), None)
        if is_halved and is_plain and is_odd and pads is not None and list(pads.ints) == [1, 1, 1, 1]:
            pads.ints[2:] = [0, 0]
    del model.graph.value_info[:]  # sizes have changed


def _pooled_convolutions(graph: "GraphProto") -> "Iterator[tuple[NodeProto, NodeProto, NodeProto | None]]":
    """Yield each convolution that only a max pooling uses, the pooling, and the only user of its result, or None."""
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type == "Conv" and [user.op_type for user in users.get(node.output[0], [])] == ["MaxPool"]:
            [pooling] = users[node.output[0]]
            following = users.get(pooling.output[0], [])
            yield node, pooling, following[0] if len(following) == 1 else None


def _constants(graph: "GraphProto", names: "list[str] | Any") -> list[NDArray[np.float32]] | None:
    """Return the initializers called `names`; None if one is missing."""
    import onnx

    known = {tensor.name: tensor for tensor in graph.initializer}
    if any(name not in known for name in names):
        return None
    return [onnx.numpy_helper.to_array(known[name]) for name in names]


def _attribute(node: "NodeProto", name: str, default: Any) -> Any:
    import onnx

    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)
