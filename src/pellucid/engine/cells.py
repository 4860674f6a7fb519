"""Figures of long runs, kept one by one in a folder, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid.contract.storage import write

Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Cells:
    """A folder with one small file per cell, written beside and moved into place: each is there whole or not at all.

    Numbers are kept to the last bit. Cells belong to what the folder's name was made from. Without a folder nothing is
    kept.
    """

    folder: Path | None

    @classmethod
    def of(cls, folder: Any, config: Mapping[str, Any], parts: Iterable[str], given: Iterable[Tensor] = ()) -> Cells:
        """The cells of these settings, of what `parts` are fingerprints of, and of these tensors."""
        if folder is None:
            return cls(None)
        digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
        for part in parts:
            digest.update(part.encode())
        for tensor in given:
            digest.update(tensor.detach().cpu().double().numpy().tobytes())
        found = Path(folder) / digest.hexdigest()
        found.mkdir(parents=True, exist_ok=True)
        return cls(found)

    def get(self, name: str, make: Callable[[], Mapping[str, Iterable[float]]]) -> Figures:
        """The cell's figures, made where they are not there yet or not readable."""
        if self.folder is not None and (known := self._read(self.folder / f"{name}.json")):
            return known
        found = {key: [float(x) for x in values] for key, values in make().items()}
        if self.folder is not None:
            kept = json.dumps({key: [x.hex() for x in values] for key, values in found.items()})
            write(self.folder / f"{name}.json", kept.encode(), overwrite=True)
        return found

    def _read(self, path: Path) -> Figures | None:
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            return {str(key): [float.fromhex(x) for x in values] for key, values in held.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return None
