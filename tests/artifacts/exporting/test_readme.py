"""The code in an export's README.md and in docs/export.md works without pruneboard."""

from __future__ import annotations

from export_cases import pages, without_pruneboard
from verify_cases import record_of


def test_safetensors_and_csr_give_the_recorded_accuracy(exported):
    """Without pruneboard, the code for safetensors and CSR gives exactly the recorded number of correct images."""
    code = "found = []\n"
    for prepared, dense, sparse, _ in pages(exported):
        code += prepared + dense + "found.append(correct(logits))\n" + sparse + "found.append(correct(logits))\n"
    found = without_pruneboard(exported / "export", code + "print(json.dumps(found))")
    expected = record_of(exported)["metrics"]["test"]["correct"]
    assert expected > 355 / 5
    assert set(found) == {expected}
    assert len(found) == 2 * len(pages(exported))


def test_onnx_gives_the_recorded_accuracy(exported):
    """Without pruneboard, torch and timm, the code for ONNX gives exactly the recorded number of correct images."""
    code = "found = []\n"
    for prepared, *_, program in pages(exported):
        code += prepared + program + "found.append(correct(logits))\n"
    code += "assert not {'torch', 'timm'} & set(sys.modules)\nprint(json.dumps(found))"
    assert set(without_pruneboard(exported / "export", code)) == {record_of(exported)["metrics"]["test"]["correct"]}
