"""ONNX files: float32 and int8."""
