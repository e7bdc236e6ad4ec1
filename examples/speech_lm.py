"""A small language model of speech codes: train it for a few minutes and listen to what it says.

    rvq tokenize recordings codes --bitrate 3
    python examples/speech_lm.py codes speech_lm.wav --minutes 5

It reads four codebooks in MusicGen's delay pattern: one step writes a code of every codebook. It
needs `pip install 'rvq[corpus]'` and torch.
"""

import argparse
import time
from pathlib import Path

import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import rvq
from rvq.corpus.layouts import Delay
from rvq.corpus.loading import CodesStream, Collate


class SpeechLM(nn.Module):
    """A causal Transformer over steps of one token per codebook."""

    def __init__(self, layout: Delay, width: int = 192, depth: int = 3, max_steps: int = 400):
        super().__init__()
        self.layout, self.max_steps = layout, max_steps
        # Every codebook has a vocabulary of its own: row q * size + k.
        size = layout.vocabulary_size
        self.register_buffer("offsets", torch.arange(layout.n_codebooks) * size, persistent=False)
        self.tokens = nn.Embedding(layout.n_codebooks * size, width)
        self.places = nn.Embedding(max_steps, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.heads = nn.Linear(width, layout.n_codebooks * size)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, steps: Tensor) -> Tensor:
        """Tokens `[batch, n_steps, n_codebooks]` -> scores of the next step's, one axis more."""
        n = steps.shape[1]
        x = self.tokens(steps + self.offsets).sum(2) + self.places.weight[:n]
        mask = nn.Transformer.generate_square_subsequent_mask(n, device=x.device)
        scores = self.heads(self.blocks(x, mask=mask, is_causal=True))
        return scores.unflatten(2, (self.layout.n_codebooks, -1))

    def loss(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Mean negative log-likelihood of a token, nats."""
        scores = self(tokens[:, :-1])
        nll = F.cross_entropy(scores.flatten(0, 2), tokens[:, 1:].flatten(), reduction="none")
        real = torch.arange(tokens.shape[1] - 1, device=tokens.device) < lengths[:, None] - 1
        return nll.view(scores.shape[:3])[real].mean()

    @torch.no_grad()
    def sample(self, n_frames: int, temperature: float, top_k: int) -> Tensor:
        """Steps `[1, n, n_codebooks]` of at most n_frames frames."""
        layout = self.layout
        steps = torch.full((1, 1, layout.n_codebooks), layout.blank)
        for i in range(n_frames + layout.n_codebooks - 1):
            scores = self(steps[:, -self.max_steps :])[:, -1] / temperature
            first = torch.arange(layout.n_codebooks)
            # A stream is blank until its turn comes; this sample does not end before its time.
            scores[:, first <= i, layout.blank] = -torch.inf
            least = scores.topk(top_k).values[..., -1:]
            chosen = torch.distributions.Categorical(
                logits=scores.masked_fill(scores < least, -torch.inf)
            ).sample()
            chosen[:, first > i] = layout.blank
            steps = torch.cat([steps, chosen[:, None]], dim=1)
        return steps


def main() -> None:
    """Train, report, sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codes", type=Path, help="folder of rvq tokenize")
    parser.add_argument("out", type=Path, help="WAV file to write")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of the sample")
    parser.add_argument("--model", default="speech_24khz", help="that made the codes")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    stream = CodesStream(arguments.codes, n_codebooks=4, max_frames=225, shuffle=2000)
    layout = Delay(stream.n_codebooks, stream.codebook_size)
    model = SpeechLM(layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    start, step, total = time.monotonic(), 0, 60 * arguments.minutes
    next_report = 0.0
    while (spent := time.monotonic() - start) < total:
        for batch in DataLoader(stream, batch_size=8, collate_fn=Collate(layout)):
            spent = time.monotonic() - start
            if spent > total:
                break
            # A tenth of the time to warm up, then a linear fall to zero.
            share = min(1.0, 10 * spent / total, (1 - spent / total) / 0.9)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * share
            loss = model.loss(batch.tokens, batch.lengths)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if spent >= next_report:
                next_report = spent + 10
                bits = float(loss.detach()) / 0.6931
                print(f"step {step}, {spent:.0f} s: {bits:.2f} bits a code", flush=True)
            step += 1
        stream.epoch += 1

    model.eval()
    codec = rvq.Codec.load(arguments.model)
    rate = codec.runtime.sample_rate
    n_frames = round(arguments.seconds * codec.runtime.frame_rate)
    indices = layout.codes(model.sample(n_frames, arguments.temperature, top_k=100)[0])
    n_samples = len(indices) * codec.runtime.hop_length
    codes = rvq.Codes(indices[None], stream.codebook_size, rate, n_samples, stream.model_hash)
    soundfile.write(arguments.out, codec.decode(codes).T, rate)
    print(f"{arguments.out}: {n_samples / rate:.1f} s")


if __name__ == "__main__":
    main()
