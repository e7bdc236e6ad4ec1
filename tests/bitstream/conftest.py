import pytest
from bitstream_samples import tensors
from safetensors.numpy import save

from rvq.bitstream.entropy import EntropyModel


@pytest.fixture(scope="session")
def small_model():
    """An entropy model of 3 codebooks of 8 codewords."""
    return EntropyModel(save(tensors()))
