"""Count the FLOP of an OpenVINO model from the shapes in its graph."""

import numpy as np
import openvino as ov


def work(model: ov.Model) -> dict[str, int]:
    """Return the FLOP of products, convolutions and attention by name; shapes must be static."""
    found = {}
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        shape = list(node.input(0).get_shape()) if node.inputs() else []
        if kind == "MatMul":
            inner = shape[-2] if node.get_attributes()["transpose_a"] else shape[-1]
        elif kind in ("Convolution", "GroupConvolution"):
            weights = list(node.input(1).get_shape())
            inner = int(np.prod(weights[1 if kind == "Convolution" else 2 :]))
        elif kind == "ScaledDotProductAttention":
            inner = 2 * list(node.input(1).get_shape())[-2]  # queries with keys, then with values
        else:
            continue
        outputs = int(np.prod(list(node.output(0).get_shape())))
        found[node.get_friendly_name()] = 2 * inner * outputs
    return found
