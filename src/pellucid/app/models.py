"""Models by name: `zoo:digits-cnn`, `torchvision:resnet50`, `timm:…`, `hf:…`, `onnx:file`, or `package.module:factory`."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from torch import Tensor, nn

from pellucid.app import files, weights
from pellucid.contract.errors import ExtraMissing, InputError
from pellucid.contract.explanation import tensors
from pellucid.engine import Subject
from pellucid.engine.place import embedding
from pellucid.worlds import World


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model with what is known about its inputs: rows to choose from, the size of its pictures, its tokenizer."""

    name: str
    subject: Subject
    world: World | None = None
    picture: tuple[int, int, int] | None = None  # channels, height, width
    tokenizer: Any = None

    def embedding(self, rows: Any) -> str | None:
        """Where to explain rows of tokens: at the embedding, as their numbers can't be changed a little."""
        floats = any(x.is_floating_point() for x in tensors(rows))
        return None if floats else embedding(self.subject.module)


@Parameter(name="*", group="Model", negative="")
@dataclass(frozen=True, kw_only=True)
class Wish:
    """How a model is to be loaded; the fields are options of every command that takes a model."""

    weights: Annotated[Path | None, Parameter(help="File of weights: .safetensors, or a .pt of tensors alone.")] = None
    trust_pickle: Annotated[
        str | None, Parameter(help="SHA-256 of a .pt whose code may run. Anything in it can then run as you.")
    ] = None
    allow_code: Annotated[bool, Parameter(help="Import package.module:factory, which runs its code.")] = False
    path: Annotated[Path | None, Parameter(help="Folder in which to look for that module.")] = None
    download: Annotated[bool, Parameter(help="Fetch published weights that are not in the cache.")] = False
    blank: Annotated[bool, Parameter(parse=False)] = False  # random weights will do


AS_IT_COMES = Wish()


def load(name: str, wish: Wish = AS_IT_COMES) -> Loaded:
    """The model behind a name, in evaluation mode, on the processor."""
    kind, colon, rest = name.partition(":")
    if not colon or not rest or not kind:
        raise InputError(
            "The MODEL must be a name such as zoo:digits-cnn", got=repr(name), hint=", ".join(f"{k}:…" for k in _KINDS)
        )
    loaded = _KINDS.get(kind, _from_code)(rest if kind in _KINDS else name, wish)
    if loaded.subject.module is not None:
        loaded.subject.module.eval()
    return loaded


def _zoo(name: str, wish: Wish) -> Loaded:
    from pellucid import zoo
    from pellucid.worlds.sentences import encode

    model, world, facts = zoo.load(name, progress=True), zoo.data(name), zoo.subject_facts(name)
    if wish.weights is not None:
        weights.fill(model, wish.weights, wish.trust_pickle)
    shape = facts.input_shape
    return Loaded(
        name=f"zoo:{name}",
        subject=Subject(model, classes=facts.classes, features=facts.features),
        world=world,
        picture=(shape[0], shape[1], shape[2]) if len(shape) == 3 else None,
        tokenizer=(lambda text, **_: {"input_ids": encode(text)}) if "vocabulary" in world.truth else None,
    )


def _torchvision(name: str, wish: Wish) -> Loaded:
    models = _extra("torchvision.models", "vision")
    try:
        model = models.get_model(name, weights=None)
        published = models.get_model_weights(name).DEFAULT
    except ValueError as error:
        raise InputError("torchvision must know the MODEL", got=repr(name)) from error
    known = published.transforms()
    if wish.weights is not None or not wish.blank:
        weights.fill(model, wish.weights or _published(published.url, wish), wish.trust_pickle)
    size = known.crop_size[0]
    return Loaded(
        name=f"torchvision:{name}",
        subject=Subject(
            model, classes=published.meta.get("categories", ()), preprocess=_standard(known.mean, known.std)
        ),
        picture=(3, size, size),
    )


def _published(url: str, wish: Wish) -> Path:
    """The library's own weights, from the cache, or fetched where that was asked for."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        if not wish.download:
            raise InputError(
                "The MODEL's published weights must be in the cache",
                got=f"no {path.name}",
                hint="--download to fetch them, or --weights FILE",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
        torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=sys.stderr.isatty())
    return path


def _timm(name: str, wish: Wish) -> Loaded:
    if not wish.download:
        os.environ["HF_HUB_OFFLINE"] = "1"
    timm = _extra("timm", "vision")
    given = wish.weights is not None or wish.blank
    try:
        model = timm.create_model(name, pretrained=not given)
    except (RuntimeError, OSError, ValueError) as error:
        raise _absent(name, error) from error
    if wish.weights is not None:
        weights.fill(model, wish.weights, wish.trust_pickle)
    known = timm.data.resolve_model_data_config(model)
    return Loaded(
        name=f"timm:{name}",
        subject=Subject(model, preprocess=_standard(known["mean"], known["std"])),
        picture=known["input_size"],
    )


def _hugging_face(name: str, wish: Wish) -> Loaded:
    transformers = _extra("transformers", "text")
    how = {"local_files_only": not wish.download, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **how)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0])
        if wish.weights is not None or wish.blank:
            model = kind._from_config(config) if hasattr(kind, "_from_config") else kind.from_config(config)
        else:
            model = kind.from_pretrained(name, use_safetensors=True, **how)
    except (OSError, ValueError, AttributeError) as error:
        raise _absent(name, error) from error
    if wish.weights is not None:
        weights.fill(model, wish.weights, wish.trust_pickle)
    labels = tuple(config.id2label[i] for i in sorted(config.id2label))
    if getattr(config, "num_channels", None) and getattr(config, "image_size", None):
        side = config.image_size
        height, width = (side, side) if isinstance(side, int) else side
        processor = _quietly(lambda: transformers.AutoImageProcessor.from_pretrained(name, **how))
        mean, spread = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
        return Loaded(
            name=f"hf:{name}",
            subject=Subject(
                model, output="logits", classes=labels, preprocess=_standard(mean, spread) if mean else None
            ),
            picture=(config.num_channels, height, width),
        )
    return Loaded(
        name=f"hf:{name}",
        subject=Subject(model, output="logits", classes=labels),
        tokenizer=_quietly(lambda: transformers.AutoTokenizer.from_pretrained(name, **how)),
    )


def _onnx(path: str, wish: Wish) -> Loaded:
    """Predictions alone: the file's operations run in ONNX Runtime, which gives no gradients."""
    runtime = _extra("onnxruntime", "onnx")
    session = runtime.InferenceSession(str(files.existing(path, weights.LARGEST)), providers=["CPUExecutionProvider"])
    names, shape = [i.name for i in session.get_inputs()], session.get_inputs()[0].shape

    def scores(*rows: Tensor) -> Any:
        return session.run(None, {k: v.detach().cpu().numpy() for k, v in zip(names, rows, strict=True)})[0]

    fixed = len(shape) == 4 and all(isinstance(n, int) for n in shape[1:])
    return Loaded(
        name=f"onnx:{Path(path).name}",
        subject=Subject(scores),
        picture=(shape[1], shape[2], shape[3]) if fixed else None,
    )


def _from_code(name: str, wish: Wish) -> Loaded:
    """What a function of the user's own code returns: a module or a Subject. Importing it runs that code."""
    home, _, factory = name.partition(":")
    if not all(part.isidentifier() for part in [*home.split("."), factory]):
        raise InputError("The MODEL must be a name such as zoo:digits-cnn or package.module:factory", got=repr(name))
    if not wish.allow_code:
        raise InputError(
            f"The MODEL {name!r} would run code of the module {home!r}",
            hint=f"--allow-code if you trust it; or one of {', '.join(f'{k}:…' for k in _KINDS)}",
        )
    if wish.path is not None:
        sys.path.insert(0, str(wish.path.resolve()))
    try:
        made = getattr(importlib.import_module(home), factory)
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputError(
            f"The MODEL {name!r} must name a function of an installed module",
            got=str(error),
            hint="--path FOLDER to look for it in a folder; the current one is not searched by itself",
        ) from error
    if callable(made) and not isinstance(made, nn.Module):
        try:
            inspect.signature(made).bind()
        except TypeError as error:
            raise InputError(
                f"The MODEL {name!r} must be a function that needs no arguments",
                got=f"{factory}{inspect.signature(made)}, {error}",
                hint="a function beside it that calls it with its arguments",
            ) from None
        except ValueError:  # a signature that can't be read
            pass
        made = made()
    subject = made if isinstance(made, Subject) else Subject(made)
    if wish.weights is not None:
        if subject.module is None:
            raise InputError("--weights needs a factory that makes a torch module", got=type(made).__name__)
        weights.fill(subject.module, wish.weights, wish.trust_pickle)
    return Loaded(name=name, subject=subject)


_KINDS: dict[str, Callable[[str, Wish], Loaded]] = {
    "zoo": _zoo,
    "torchvision": _torchvision,
    "timm": _timm,
    "hf": _hugging_face,
    "onnx": _onnx,
}


def _extra(module: str, extra: str) -> Any:
    """An optional package. One built for another torch raises RuntimeError when it is imported."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:
        raise ExtraMissing(
            f"This MODEL needs {package}", got=str(error).splitlines()[0][:120], hint=f'pip install "pellucid[{extra}]"'
        ) from error


def _absent(name: str, error: Exception) -> InputError:
    return InputError(
        f"The MODEL {name!r} must be known, with its weights in the cache",
        got=(str(error).splitlines() or [type(error).__name__])[0][:160],
        hint="--download to fetch it, or --weights FILE",
    )


def _quietly(make: Callable[[], Any]) -> Any:
    """A tokenizer or image processor, or `None` where the model comes without one."""
    try:
        return make()
    except (OSError, ValueError, ImportError, RuntimeError):
        return None


def _standard(mean: Any, spread: Any) -> Callable[[Tensor], Tensor]:
    """Pixels in [0, 1] to the values a network was trained on, as part of what is differentiated."""
    centre, scale = torch.tensor(mean)[:, None, None], torch.tensor(spread)[:, None, None]
    return lambda x: (x - centre.to(x)) / scale.to(x)
