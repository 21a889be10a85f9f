"""What sift adds to fvcore: one file a family of operators, each with a table ``HANDLES``.

A handle gets the inputs and outputs of a node of the traced graph and says what they multiply: products, or ``LISTED``
where the operator computes something that the convention does not count.
"""
