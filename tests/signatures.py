"""What `make test-examples` holds calls against signatures with: an int will do where a float is asked for."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

hold = beartype(conf=BeartypeConf(is_pep484_tower=True))
