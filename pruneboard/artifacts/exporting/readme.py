"""`README.md` of an export: how to load each format without pruneboard, with this network's own name and numbers.

The text does not depend on which formats were requested, so that another one can be added to the folder later.
"""

from __future__ import annotations

from pruneboard.artifacts.exporting.description import describe
from pruneboard.artifacts.finished_run import FinishedRun

_TEXT = """# {name}: {nonzero} of {prunable} prunable weights are not zero

Written by `pruneboard export`; nothing here needs pruneboard. {correct}
Run the code in this folder: the first block, then the block of one format.

Images are RGB of {size} x {size} pixels:

```python
import numpy as np

mean = np.array({mean}, np.float32).reshape(3, 1, 1)
std = np.array({std}, np.float32).reshape(3, 1, 1)


def prepared(pixels):  # uint8 [batch, 3, {size}, {size}] -> float32
    return (pixels.astype(np.float32) / 255 - mean) / std
```

`model.safetensors`, the dense network with its zeros in place, needs torch and timm:

```python
import torch
{imports}
from safetensors.torch import load_file

model = {call}
model.load_state_dict(load_file("model.safetensors"))
model.eval()


def logits(pixels):
    with torch.no_grad():
        return model(torch.from_numpy(prepared(pixels))).numpy()
```

`model.csr.npz`, every prunable weight as a sparse matrix, needs numpy and scipy to load, and torch and timm to run:

```python
import torch
{imports}
from load_csr import matrices, state

sparse = matrices()  # name -> scipy.sparse.csr_array
model = {call}
model.load_state_dict({{name: torch.from_numpy(array) for name, array in state().items()}})
model.eval()


def logits(pixels):
    with torch.no_grad():
        return model(torch.from_numpy(prepared(pixels))).numpy()
```

`model.onnx`, the whole network, needs ONNX Runtime:

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


def logits(pixels):
    return session.run(["logits"], {{"images": prepared(pixels)}})[0]
```
"""


def text(run: FinishedRun) -> str:
    """Return the Markdown text.

    Of the record it contains only numbers, and the network's name, which rebuilt it: no untrusted text.
    """
    about = describe(run)
    network, images, test = about["network"], about["images"], about["test"]
    in_network_py = network["built_by"] != "timm"
    arguments = "".join(f", {name}={value!r}" for name, value in network["arguments"].items())
    return _TEXT.format(
        name=network["name"],
        nonzero=about["prunable"]["nonzero"],
        prunable=about["prunable"]["prunable"],
        correct="" if test["correct"] is None else f"It classified {test['correct']} of {test['count']} test images.",
        size=images["shape"][-1],
        mean=images["mean"],
        std=images["std"],
        imports="from network import build" if in_network_py else "import timm",
        call=f"build({network['name']!r}, {network['arguments']!r})"
        if in_network_py
        else f"timm.create_model({network['name']!r}{arguments})",
    )
