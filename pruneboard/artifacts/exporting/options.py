"""The formats of `pruneboard export`, and the packages they need. Imports no torch."""

from __future__ import annotations

from pruneboard.artifacts.choices import Choices

FORMATS = Choices("format", ("safetensors", "csr", "onnx"), {"onnx": ("onnx", "onnxscript")})
