"""How large a chunk is: by what one job takes, in all and in its largest tensor."""

import pytest
import torch
from torch import nn

from pellucid.contract import errors
from pellucid.engine import batch


def chunks(work, jobs, memory):
    found = []
    batch.run(
        jobs,
        lambda start, stop: work(stop - start),
        lambda start, stop, result: found.append(stop - start),
        memory=memory,
        cost=(None, "test"),
        device=torch.device("cpu"),
    )
    assert sum(found) == jobs
    return found


def test_no_tensor_of_a_chunk_is_larger_than_the_c_library_keeps():
    row = batch.LARGEST_TENSOR // 8 // 4
    assert chunks(lambda n: torch.ones(n, row, dtype=torch.float64), 11, 1 << 30) == [4, 4, 3]


def test_weights_are_not_counted_as_a_jobs_own():
    layer = nn.Linear(512, 2048)
    with torch.no_grad():
        assert chunks(lambda n: layer(torch.ones(n, 512)), 8, layer.weight.nbytes // 8) == [8]


def test_a_budget_in_words_or_plain_bytes():
    device = torch.device("cpu")
    assert batch.budget("1000000", device) == batch.budget(1000000, device) == 1000000
    assert batch.budget("1.5 KiB", device) == 1536
    for wrong in ("0", "-5", "1.5", "infGiB", "nanGiB", "GiB", ""):
        with pytest.raises(errors.InputError, match="number of bytes"):
            batch.budget(wrong, device)
