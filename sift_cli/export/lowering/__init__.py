"""Lowerings: one file an ONNX pattern. Each replaces nodes whose weight has a mask by a sift operator.

A lowering has ``AFTER_OPTIMIZER``, False to see the graph as the exporter wrote it, where weights still have their
names behind a Transpose, True to see it with BatchNorm folded into the convolutions; and ``weight_of(node)``,
the initializer with the node's weight, or None where the node is not its pattern; and ``lower(graph, node, weight,
mask)``, the operator that takes the node's place.
"""
