"""What probing found, as a table in Markdown, as JSON, and as a figure."""

import json
from dataclasses import asdict
from pathlib import Path

from rvq.corpus.probe import Accuracy, Probed


def as_json(probed: Probed) -> str:
    """All of it."""
    return json.dumps(asdict(probed), indent=1) + "\n"


def from_json(text: str) -> Probed:
    """Undo `as_json`."""
    fields = json.loads(text)
    for name in ("classified", "retrieved"):
        fields[name] = tuple(Accuracy(**entry) for entry in fields[name])
    return Probed(**fields | {"labels": tuple(fields["labels"])})


def as_table(tasks: dict[str, Probed]) -> str:
    """Accuracies in percent with their intervals; a column per task."""
    probed = tasks.values()
    rows = [
        ["", *tasks],
        ["---", *["---:"] * len(tasks)],
        ["classes, recordings", *(f"{len(p.labels)}, {p.n_clips}" for p in probed)],
        ["chance", *(f"{p.chance:.1%}" for p in probed)],
    ]
    for kind, title in (("classified", "classified from"), ("retrieved", "nearest by")):
        features = dict.fromkeys(a.features for p in probed for a in getattr(p, kind))
        for name in features:
            cells = (_accuracy(getattr(p, kind), name) for p in probed)
            rows.append([f"{title} {name}", *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _accuracy(accuracies: tuple[Accuracy, ...], features: str) -> str:
    for a in accuracies:
        if a.features == features:
            return f"{a.value:.1%} ({a.low:.1%}–{a.high:.1%})"
    return "–"


def figure(tasks: dict[str, Probed], path: Path) -> None:
    """Accuracy over the number of codebooks, and of every codebook alone; a panel per task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (3.6 * len(tasks), 3.4)
    drawing, panels = plt.subplots(1, len(tasks), figsize=size, squeeze=False, layout="tight")
    for panel, (name, probed) in zip(panels[0], tasks.items(), strict=True):
        found = {a.features: a for a in probed.classified}
        for kind, label, colour in (("codes", "first n summed", "C0"), ("layer", "n-th", "C1")):
            chosen = [(int(k.split()[1]), a) for k, a in found.items() if k.startswith(kind)]
            x = [n for n, _ in chosen]
            panel.plot(x, [a.value for _, a in chosen], "o-", color=colour, ms=3, label=label)
            low, high = [a.low for _, a in chosen], [a.high for _, a in chosen]
            panel.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
        panel.axhline(found["log-mel"].value, color="C2", ls="--", label="log-mel")
        panel.axhline(found["latents"].value, color="C3", ls=":", label="latents")
        panel.axhline(probed.chance, color="grey", lw=0.8, label="chance")
        panel.set(title=f"{name} ({len(probed.labels)})", xlabel="codebook n", ylim=(0, 1.02))
        panel.set_xscale("log", base=2)
        panel.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    panels[0][0].set_ylabel("accuracy")
    panels[0][0].legend(fontsize=7)
    drawing.savefig(path, dpi=110)
