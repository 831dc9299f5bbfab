"""The script next to the CSR arrays needs only numpy and scipy."""

from __future__ import annotations

from export_cases import without_pruneboard
from verify_cases import record_of


def test_csr_loads_without_torch(exported):
    """The script loads every tensor without torch, and its matrices have the recorded number of non-zeros."""
    code = "from load_csr import matrices, state\nstate()\nassert 'torch' not in sys.modules\n"
    code += "print(sum(matrix.nnz for matrix in matrices().values()))"
    assert without_pruneboard(exported / "export", code) == record_of(exported)["sparsity"]["nonzero"]
