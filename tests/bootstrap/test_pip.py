"""pip's many lines become a few that show how far it is."""

from __future__ import annotations

import pytest

from bootstrap.pip import progress_line


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (899.8 MB)\n",
            "  downloading torch-2.13.0 (899.8 MB)",
        ),
        (
            "Downloading nvidia_cudnn_cu13-9.19.0-py3-none-manylinux_2_27_x86_64.whl (1.2 GB)\n",
            "  downloading nvidia_cudnn_cu13-9.19.0 (1.2 GB)",
        ),
        ("  Downloading idna-3.20-py3-none-any.whl (71 kB)\n", None),
        ("  Downloading rich-15.0.0-py3-none-any.whl (1.3 MB)\n", None),
        ("Collecting torch==2.13.0\n", None),
        ("Installing collected packages: mpmath, typing-extensions, torch\n", "  installing 3 packages"),
    ],
)
def test_big_downloads_and_the_installation_are_shown(line: str, shown: str | None) -> None:
    assert progress_line(line) == shown
