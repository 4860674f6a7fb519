"""Importing loads nothing that is not needed, prints nothing and opens no connection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pellucid

HEAVY = ("sklearn", "matplotlib", "skimage", "scipy", "PIL", "transformers", "torchvision", "timm", "captum", "jinja2")
HEAVY += ("tqdm", "cyclopts", "onnxruntime", "jaxtyping", "beartype")
WATCH = """
import sys
def watch(event, details):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise RuntimeError(f"{event} {details}")
sys.addaudithook(watch)
"""


def run(code: str) -> str:
    """What a fresh interpreter prints for some code."""
    environment = {**os.environ, "PYTHONPATH": str(Path(pellucid.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(code: str) -> set[str]:
    """The packages that code loads, over those that torch loads by itself."""
    tail = "\nimport sys\nsys.stdout.write(' '.join({m.partition('.')[0] for m in sys.modules}))"
    return set(run(code + tail).split())


def test_importing_the_package_does_not_load_torch() -> None:
    assert "torch" not in loaded("import pellucid")


def test_the_root_help_does_not_load_torch() -> None:
    code = "from pellucid.__main__ import main\nassert main(['--help']) == 0\nimport sys\nassert 'torch' not in sys.modules"
    assert "explain" in run(code)


@pytest.mark.parametrize("code", ["import pellucid; pellucid.explain", "import pellucid; pellucid.catalogue.names()"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    assert (loaded(code) - loaded("import torch")) & set(HEAVY) == set()


def test_importing_prints_nothing_and_opens_no_connection() -> None:
    assert run(WATCH + "import pellucid\npellucid.explain\npellucid.catalogue.names()") == ""


def test_the_watch_sees_a_connection() -> None:
    with pytest.raises(AssertionError, match=r"socket\.connect"):
        run(WATCH + "import socket\nsocket.socket().connect(('127.0.0.1', 9))")
