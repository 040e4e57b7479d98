"""Export to ExecuTorch programs, for phones."""
