"""The words of the domain, on the standard library and numpy alone: nothing here imports torch, onnx or a terminal."""
