"""What the parameters of SEANets are called elsewhere."""

from torch import nn


def seanet_names(network: nn.Module, prefix: str, *, original: bool = False) -> dict[str, str]:
    """Names in a checkpoint of a network's parameters, its weight norm folded.

    Args:
        network: a SEANet encoder or decoder.
        prefix: of its layers in the checkpoint.
        original: whether names are those of the `encodec` package, or Hugging Face's.
    """
    transposed = [n for n, m in network.named_modules() if isinstance(m, nn.ConvTranspose1d)]
    names = {}
    for ours, _ in network.named_parameters():
        name = ours.removeprefix("chain.layers.").replace(".block.layers.", ".block.")
        name = name.replace(".body.", ".").replace("skip", "shortcut")
        if original:
            is_transposed = any(ours.startswith(f"{layer}.") for layer in transposed)
            is_transposed |= f"{ours.rpartition('.norm.')[0]}.conv" in transposed
            kind = "convtr" if is_transposed else "conv"
            name = name.replace(".conv.", f".{kind}.{kind}.").replace(".norm.", f".{kind}.norm.")
        names[ours] = prefix + name
    return names
