"""Commands as a person meets them: help, errors and exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pellucid
from pellucid.__main__ import main
from pellucid.app import command

SOURCE = str(Path(pellucid.__file__).parents[1])


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The single line on standard error; there is none on standard output, and no traceback."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pellucid: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("name", list(command.COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: pellucid {name}")
    assert len(out.splitlines()) > 8


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pellucid {pellucid.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explian"], 'Did you mean "explain"?'),
        (["explain"], "MODEL"),
        (["explain", "zoo:digits-cnn", "test:0", "--no-such-option"], "--no-such-option"),
        (["explain", "zoo:digits-cnn", "test:0", "--steps", "many"], "--steps"),
        (["explain", "zoo:digits-cnn", "test:0", "--method", "integrated-gradient"], "'integrated-gradients'"),
        (["explain", "zoo:digits", "test:0"], "digits-cnn"),
        (["explain", "zoo:digits-cnn", "test:9999"], "0 to "),
        (["explain", "zoo:digits-cnn", "nothing.png"], "nothing.png"),
        (["explain", "zoo:digits-cnn", "nothing"], "test:0-7"),
        (["explain", "zoo:digits-cnn", "test:0", "--target", "12"], "0 to 9"),
        (["explain", "zoo:digits-cnn", "test:0", "--target", "twelve"], "'twelve'"),
        (["explain", "zoo:digits-cnn", "test:0", "--layer", "conv3"], "conv2"),
        (["explain", "zoo:digits-cnn", "test:0", "--memory", "lots"], "1GiB"),
        (["explain", "digits-cnn", "test:0"], "zoo:"),
        (["explain", "torchvision:resnet18", "test:0"], "torchvision"),
        (["methods", "--form", "picture"], "attribution"),
        (["methods", "--needs", "luck"], "predictions"),
    ],
)
def test_a_wrong_call_gets_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in one_line(capsys)


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "zoo:digits-cnn", "test:9999", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_error_of_the_users_code_gets_one_line_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_net.py").write_text("def build():\n    raise ValueError('two\\nlines \\x1b[31m')\n")
    assert main(["explain", "broken_net:build", "x.npy", "--allow-code", "--path", str(tmp_path)]) == 1
    assert r"ValueError: two lines \x1b[31m" in one_line(capsys)


def test_interrupting_gives_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pellucid.app.models.load", stop)
    assert main(["explain", "zoo:digits-cnn", "test:0"]) == 130
    assert one_line(capsys) == "pellucid: interrupted\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    call = f"{sys.executable} -m pellucid methods --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", call], capture_output=True, text=True, env=environment)
    assert done.stderr == ""


def test_methods_prints_the_catalogue_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    others = [entry.name for entry in pellucid.catalogue.entries()]
    assert [c["id"] for c in cards] == [*pellucid.catalogue.names(), *others]
    assert all({"id", "kind", "covers", "form", "scope", "needs"} <= c.keys() for c in cards)


@pytest.mark.parametrize(
    ("arguments", "inside", "outside"),
    [
        (["--form", "attribution"], "integrated-gradients", "cart-c45-surrogate"),
        (["--needs", "predictions"], "occlusion-sensitivity", "integrated-gradients"),
        (["--needs", "gradient"], "integrated-gradients", "expected-gradients"),
        (["--needs", "data"], "cart-c45-surrogate", "expected-gradients"),
        (["--question", "Which similar cases are there?"], "deep-nearest-neighbours", "gradient-x-input"),
        (["saturated"], "vanilla-gradient", "cart-c45-surrogate"),
        (["--category", "post-hoc/saliency"], "vanilla-gradient", "cart-c45-surrogate"),
    ],
)
def test_methods_can_be_filtered(
    arguments: list[str], inside: str, outside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["methods", "--json", *arguments]) == 0
    found = [c["id"] for c in json.loads(capsys.readouterr().out)]
    assert inside in found
    assert outside not in found


def test_methods_are_let_through_the_gate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "vanilla gradient", "--gate"]) == 0
    assert capsys.readouterr().out.strip().endswith("the gate is open")


def test_methods_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in pellucid.catalogue.names())
    assert max(map(len, out.splitlines())) <= 120


def test_methods_can_be_cited(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "axiomatic", "--cite"]) == 0 or capsys.readouterr()
    assert main(["methods", "--cite"]) == 0
    assert "@inproceedings{sundararajan2017axiomatic," in capsys.readouterr().out


def test_check_says_which_rule_each_operation_gets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "zoo:digits-cnn", "--rules", "guided"]) == 0
    out = capsys.readouterr().out
    assert "--layer conv2" in out
    assert out.count("aten.relu") == 3
    assert "none without a rule" in out


def test_check_names_what_has_no_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return torch.atan(x)\n"
    (tmp_path / "odd_net.py").write_text(code + "def build():\n    return Net()\n")
    arguments = ["check", "odd_net:build", "--allow-code", "--path", str(tmp_path), "--shape", "4"]
    assert main(arguments) == 3
    out = capsys.readouterr().out
    assert "aten.atan" in out
    assert "1 without a rule" in out


def test_the_current_folder_is_not_searched(tmp_path: Path) -> None:
    """Neither for a model's code nor, under `python -m`, for torch itself."""
    (tmp_path / "torch.py").write_text("open('loaded', 'w').close()")
    (tmp_path / "my_net.py").write_text("open('loaded', 'w').close()\ndef build(): ...")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    start = f"import sys; sys.path.append({SOURCE!r}); import runpy; runpy.run_module('pellucid', run_name='__main__')"
    for entry in (["-m", "pellucid"], ["-c", start]):
        if entry[0] == "-m":
            environment["PYTHONPATH"] = SOURCE
        done = subprocess.run(
            [sys.executable, *entry, "explain", "my_net:build", "x.npy", "--allow-code"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 2, done.stderr
        assert "No module named 'my_net'" in done.stderr
        assert not (tmp_path / "loaded").exists()


def test_a_factory_that_needs_arguments_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "needy_net.py").write_text("import torch\ndef build(width):\n    return torch.nn.Linear(width, 2)\n")
    arguments = ["explain", "needy_net:build", "x.npy", "--allow-code", "--path", str(tmp_path)]
    assert main(arguments) != 0
    assert "needs no arguments" in capsys.readouterr().err
