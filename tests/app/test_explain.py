"""`pellucid explain` and `report`: what words ask for is what `px.explain` is asked for."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import pellucid as px
from pellucid.__main__ import main
from pellucid.app import explain, fields, inputs, models, results
from pellucid.attribution import IntegratedGradients, SmoothGrad
from pellucid.contract import registered

HOSTILE = [
    "../outside", "..\\outside", "/etc/passwd", "C:\\outside", "%2e%2e%2foutside", "a\0b", "CON", "NUL.png", "x" * 300,
    "\u202egnp.exe", "-rf", "--save", ".", "..", "/", "~", "~root", "$HOME", "`touch x`", "$(touch x)", "x; touch y",
    "x\ny", "\x1b[2J", "\x9b31m", "\u2028", "file:///etc/passwd", "http://127.0.0.1:9/x.npy", "//host/share/x.npy",
    "/dev/zero", "/dev/stdin", "/proc/self/environ", "test:", "test:-1", "test:1-", "test:9-1", "test:1e3", "train:٣",
    "text:", "*.npy", " ",
]  # fmt: skip


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["explain", *arguments, "--json"]) == 0, capsys.readouterr().err
    out: dict[str, object] = json.loads(capsys.readouterr().out)
    return out


def test_facts_and_settings_as_json_are_those_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    found = show(capsys, "zoo:digits-cnn", "test:3,5", "--tolerance", "0.001", "--target", "4", "--seed", "7")
    world = px.zoo.data("digits-cnn")
    subject = models.load("zoo:digits-cnn").subject
    method = IntegratedGradients(tolerance=0.001)
    result = px.explain(subject, world.test[0][[3, 5]], method, target=4, seed=7)
    assert found["rows"] == ["test:3", "test:5"]
    assert found["facts"]["score"] == pytest.approx(result.facts["score"].tolist(), rel=1e-6)
    assert found["source"]["settings"] == result.source["settings"]
    assert {k: found["source"][k] for k in ("seed", "target", "model_hash", "input_hash")} == {
        k: result.source[k] for k in ("seed", "target", "model_hash", "input_hash")
    }


def test_sentences_are_read_and_explained_by_word(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = "text:The soup was not bad, but the waiter was rude."
    found = show(capsys, "zoo:sentences-cnn", words, "--method", "representation-erasure", "--seed", "1")
    assert found["source"]["layer"] == "embedding"
    assert main(["explain", "zoo:sentences-cnn", words, "--method", "gradient-x-input"]) == 0
    assert "“bad” (" in capsys.readouterr().out
    assert main(["explain", "zoo:sentences-cnn", "text:the goulash was good"]) == 2
    assert "'goulash'" in capsys.readouterr().err


def test_words_become_values_of_the_fields_types(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--method=smoothgrad", "--of", "gradient-x-input", "--samples", "4", "--noise", "0.5"]
    settings = show(capsys, "zoo:iris-mlp", "test:0", *arguments)["source"]["settings"]
    expected = {
        k: v for k, v in SmoothGrad(of="gradient-x-input", samples=4, noise=0.5).config().items() if k != "method"
    }
    assert settings == expected
    assert show(capsys, "zoo:iris-mlp", "test:0", "--baseline", "-1.5")["source"]["settings"]["baseline"] == -1.5
    assert show(capsys, "zoo:iris-mlp", "test:0", "--baseline", "mean")["source"]["settings"]["baseline"] == "mean"


@pytest.mark.parametrize("method", list(registered().values()), ids=lambda m: m.card.name)
def test_the_defaults_of_the_options_are_those_of_the_method(method: type[px.Method]) -> None:
    given = {o.name: o.default for o in fields.options(method)}
    assert fields.build(method, given).config() == method().config()


def test_every_file_can_be_written_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {kind: str(tmp_path / f"out.{kind}") for kind in ("safetensors", "html", "png", "csv")}
    written = ["--save", names["safetensors"], "--html", names["html"], "--png", names["png"], "--csv", names["csv"]]
    assert main(["explain", "zoo:iris-mlp", "test:0-2", *written]) == 0
    out = capsys.readouterr().out
    assert "Integrated gradients" in out
    assert "completeness gap" in out
    result = px.load(names["safetensors"])
    assert result.values.shape == (3, 4)
    assert result.context.inputs is None
    page = Path(names["html"]).read_text(encoding="utf-8")
    assert "<html" in page
    assert str(tmp_path) not in page
    with Image.open(names["png"]) as figure:
        assert figure.width > 100
    lines = list(csv.reader(io.StringIO(Path(names["csv"]).read_text(encoding="utf-8"))))
    assert [line[0] for line in lines] == ["row", "test:0", "test:1", "test:2"]
    assert lines[0][-4:] == list(px.zoo.data("iris-mlp").features)
    assert [float(x) for x in lines[2][-4:]] == pytest.approx(result.values[1].tolist())


def test_existing_files_are_kept_and_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.csv").write_text("mine")
    arguments = ["explain", "zoo:iris-mlp", "test:0", "--csv", str(tmp_path / "out.csv")]
    with monkeypatch.context() as patch:
        patch.setattr(models, "load", None)
        assert main(arguments) == 2
        assert "--force" in capsys.readouterr().err
        assert main([*arguments[:-1], str(tmp_path / "no" / "out.csv")]) == 2
    assert (tmp_path / "out.csv").read_text() == "mine"
    (tmp_path / "link.csv").symlink_to(tmp_path / "out.csv")
    assert main([*arguments[:-1], str(tmp_path / "link.csv")]) == 2
    assert main([*arguments[:-1], str(tmp_path / "link.csv"), "--force"]) == 0
    assert (tmp_path / "out.csv").read_text() == "mine", "a link is replaced, not written through"
    assert main([*arguments, "--force"]) == 0
    assert (tmp_path / "out.csv").read_text().startswith("row,")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("kind", ["--html", "--png", "--csv", "--save"])
def test_a_pipe_or_device_is_never_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in place of /dev/null would break the whole machine; a named pipe stands for it here."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    monkeypatch.setattr(models, "load", None)
    for name in ("pipe", "link"):
        assert main(["explain", "zoo:iris-mlp", "test:0", kind, str(tmp_path / name), "--force"]) == 2
        assert "an ordinary file" in capsys.readouterr().err
        assert (tmp_path / name).is_fifo()


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"], ids=["long", "nul"])
def test_names_that_no_file_can_have_are_refused(name: str, tmp_path: Path) -> None:
    for overwrite in (False, True):
        with pytest.raises(px.contract.errors.InputError, match="name that a file can have"):
            px.Text(sentences=("one",)).save(tmp_path / name, overwrite=overwrite)
    assert main(["explain", "zoo:iris-mlp", "test:0", "--html", str(tmp_path / name)]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pages_and_results_never_replace_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = px.Text(sentences=("one",))
    with pytest.raises(px.contract.errors.InputError, match="ordinary file"):
        result.save(tmp_path / "pipe", overwrite=True)
    assert main(["report", "zoo:iris-mlp", "test:0", "--out", str(tmp_path / "pipe"), "--force"]) == 2
    assert main(["demo", "--out", str(tmp_path / "pipe"), "--force"]) == 2
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", HOSTILE, ids=lambda n: ascii(n)[:20])
def test_hostile_names_do_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever a name is taken: one clean line, status 2, and nothing written anywhere."""
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    calls = [
        ["zoo:iris-mlp", name],
        [name, "test:0"],
        [f"zoo:{name}", "test:0"],
        ["zoo:iris-mlp", "test:0", "--layer", name],
    ]
    calls += [["zoo:iris-mlp", "test:0", "--target", name], ["zoo:iris-mlp", "test:0", "--weights", name]]
    calls += [["zoo:iris-mlp", "test:0", "--data", name, "--method", "deep-nearest-neighbours"]]
    for call in calls:
        status = main(["explain", *call])
        out, err = capsys.readouterr()
        assert status == 2, (call, out, err)
        assert out == ""
        assert err.startswith("pellucid: ")
        assert err.count("\n") == 1
        assert err[:-1].isprintable()
    assert [p.name for p in tmp_path.rglob("*")] == ["in"]


def factory(folder: Path, body: str) -> list[str]:
    """The arguments for a model made by code in a folder."""
    name = f"net_{abs(hash((str(folder), body)))}"
    (folder / f"{name}.py").write_text(f"import torch, pellucid as px\ndef build():\n    {body}\n")
    return [f"{name}:build", "--allow-code", "--path", str(folder)]


def test_names_of_classes_and_features_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = "('\\x1b[31mred', 'a\\nb')"
    subject = f"px.Subject(torch.nn.Linear(2, 2), classes={classes}, features=('=1+1', '\\x1b]0;title\\x07'))"
    model, *how = factory(tmp_path, f"return {subject}")
    np.save(tmp_path / "x.npy", np.ones((2, 2), np.float32))
    assert main(["explain", model, str(tmp_path / "x.npy"), *how, "--csv", str(tmp_path / "o.csv")]) == 0
    out, err = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in out + err)
    assert main(["check", model, str(tmp_path / "x.npy"), *how]) == 0
    assert all(c.isprintable() or c == "\n" for c in capsys.readouterr().out)
    heading = (tmp_path / "o.csv").read_text(encoding="utf-8").splitlines()[0]
    assert heading.endswith(r",'=1+1,\x1b]0;title\x07")


def test_code_is_run_only_where_it_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "side_effect_net.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef build(): ...\n")
    assert main(["explain", "side_effect_net:build", "x.npy", "--path", str(tmp_path)]) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_a_payload_among_the_weights_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"""
import torch
from pathlib import Path
class Payload:
    def __reduce__(self):
        return Path.touch, (Path({str(tmp_path / "ran")!r}),)
torch.save({{"weight": Payload()}}, {str(tmp_path / "w.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert main(["explain", "zoo:iris-mlp", "test:0", "--weights", str(tmp_path / "w.pt")]) == 2
    assert "--trust-pickle" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_weights_replace_those_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = px.zoo.load("iris-mlp")
    save_file({k: torch.zeros_like(v) for k, v in model.state_dict().items()}, tmp_path / "zero.safetensors")
    found = show(capsys, "zoo:iris-mlp", "test:0", "--weights", str(tmp_path / "zero.safetensors"), "--target", "0")
    assert found["facts"]["score"] == [0.0]
    assert show(capsys, "zoo:iris-mlp", "test:0", "--target", "0")["facts"]["score"] != [0.0]


def test_rows_by_name() -> None:
    model = models.load("zoo:iris-mlp")
    world = px.zoo.data("iris-mlp")
    assert torch.equal(inputs.read("test:4", model).inputs, world.test[0][4:5])
    assert torch.equal(inputs.read("train:2-4", model).inputs, world.train[0][2:5])
    found = inputs.read("test:1,3, 5-6", model)
    assert torch.equal(found.inputs, world.test[0][[1, 3, 5, 6]])
    assert torch.equal(found.labels, world.test[1][[1, 3, 5, 6]])
    assert found.names == ("test:1", "test:3", "test:5", "test:6")


def test_wrong_rows_are_the_models_mistakes_the_surest_first() -> None:
    model = models.load("zoo:digits-cnn")
    found = inputs.read("test:wrong", model)
    with torch.no_grad():
        shares = model.subject.module(found.inputs).softmax(1)
        all_wrong = model.subject.module(model.world.test[0]).argmax(1) != model.world.test[1]
    assert len(found.names) == int(all_wrong.sum())
    assert bool((shares.argmax(1) != found.labels).all())
    assert shares.amax(1).tolist() == sorted(shares.amax(1).tolist(), reverse=True)


def test_a_table_in_its_own_units_means_the_rows_it_was_made_from(tmp_path: Path) -> None:
    model = models.load("zoo:iris-mlp")
    world = model.world
    assert world is not None
    rows, order = world.original(world.inputs[:5]), [2, 0, 3, 1]
    heading = ",".join(["label", *(world.features[i] for i in order)])
    cells = [
        [world.classes[int(y)], *(repr(float(row[i])) for i in order)]
        for row, y in zip(rows, world.labels[:5], strict=True)
    ]
    (tmp_path / "a.csv").write_text("\n".join([heading, *(",".join(c) for c in cells)]))
    found = inputs.read(str(tmp_path / "a.csv"), model)
    assert torch.allclose(found.inputs, world.inputs[:5], atol=1e-6)
    assert torch.equal(found.labels, world.labels[:5])


def test_a_picture_becomes_a_row_of_the_models_shape(tmp_path: Path) -> None:
    Image.new("RGB", (30, 40), (255, 255, 255)).save(tmp_path / "a.png")
    found = inputs.read(str(tmp_path / "a.png"), models.load("zoo:digits-cnn"))
    assert torch.equal(found.inputs, torch.ones(1, 1, 8, 8))
    assert found.names == ("a.png",)


def test_arrays_get_the_models_type_and_the_axis_of_rows(tmp_path: Path) -> None:
    model = models.load("zoo:digits-cnn")
    np.save(tmp_path / "a.npy", np.ones((1, 8, 8)))
    np.savez(tmp_path / "b.npz", X=np.ones((3, 1, 8, 8)), y=np.array([1, 2, 3]))
    assert inputs.read(str(tmp_path / "a.npy"), model).inputs.dtype == torch.float32
    assert inputs.read(str(tmp_path / "a.npy"), model).inputs.shape == (1, 1, 8, 8)
    found = inputs.read(str(tmp_path / "b.npz"), model)
    assert found.inputs.shape == (3, 1, 8, 8)
    assert found.labels.tolist() == [1, 2, 3]


def test_what_a_method_learns_from_comes_from_the_world_or_a_file(tmp_path: Path) -> None:
    model = models.load("zoo:iris-mlp")
    np.savez(tmp_path / "b.npz", X=np.ones((3, 4)), y=np.array([1, 2, 0]))
    rows, labels = inputs.data(str(tmp_path / "b.npz"), model, learns=True)
    assert rows.shape == (3, 4)
    assert labels.tolist() == [1, 2, 0]
    assert torch.equal(inputs.data(None, model, learns=True)[0], model.world.train[0])
    assert torch.equal(inputs.data("test", model, learns=False)[1], model.world.test[1])
    assert inputs.data(None, model, learns=False) is None


def test_a_transformer_is_explained_at_its_embedding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = """import transformers
    config = transformers.BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=8, max_position_embeddings=16, num_labels=2)
    torch.manual_seed(0)
    return px.Subject(transformers.BertForSequenceClassification(config), output="logits")"""
    model, *how = factory(tmp_path, body)
    save_file(
        {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)},
        tmp_path / "tokens.safetensors",
    )
    found = show(capsys, model, str(tmp_path / "tokens.safetensors"), *how, "--method", "vanilla-gradient")
    assert found["source"]["layer"] == "bert.embeddings.word_embeddings"


def test_models_from_elsewhere_name_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"hf:{tmp_path / 'nothing'}", "text:hello"]) == 2
    assert "--download" in capsys.readouterr().err
    if "onnxruntime" not in sys.modules:
        (tmp_path / "a.onnx").write_bytes(b"")
        assert main(["explain", f"onnx:{tmp_path / 'a.onnx'}", "x.npy"]) in (1, 2)
        capsys.readouterr()


def test_a_folder_in_the_form_of_hugging_face_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import transformers

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=3, id2label={0: "cat", 1: "dog"})
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    Image.new("RGB", (20, 20), (9, 99, 199)).save(tmp_path / "a.png")
    capsys.readouterr()
    assert main(["explain", f"hf:{tmp_path / 'vit'}", str(tmp_path / "a.png"), "--target", "dog", "--steps", "4"]) == 0
    assert "dog" in capsys.readouterr().out


def test_a_report_says_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    arguments = [
        "report",
        "zoo:iris-mlp",
        "test:0-1",
        "--out",
        str(page),
        "--methods",
        "vanilla-gradient",
        "smoothgrad",
    ]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"Open this page: {page}\n"
    text = page.read_text(encoding="utf-8")
    assert "setosa" in text or "versicolor" in text or "virginica" in text
    assert str(tmp_path) not in text
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demonstration_is_written(tmp_path: Path) -> None:
    page = tmp_path / "new" / "demo.html"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pellucid", "demo", "--out", str(page)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Open this page: {page}\n"
    assert done.stderr == ""
    assert page.stat().st_size > 100_000


def test_options_of_all_commands_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """No option without a word of help."""
    assert main(["explain", "--help"]) == 0
    out = capsys.readouterr().out
    for kind in (models.Wish, explain.Asked, results.Writing):
        for field in dataclasses.fields(kind):
            if field.name != "blank":
                assert f"--{field.name.replace('_', '-')} " in out
