"""``python -m benchmarks.peers FOLDER``: our runtimes, torch, bge-m3-lite and FlagEmbedding on one random checkpoint.

Every encoder gives all three representations of the same texts, in its own way and with its own defaults, but that
all keep 8,192 tokens of a text. A run is a fresh process and encoders take turns; times are medians over passes and
rounds, and ratios of one run are what to quote. Cases go from small to large, so that the peak of memory in a case is
due to it; mapped files are told apart. Cosines are to the NumPy forward pass that defines the model
(``onnx_export.reference``). The last line is one JSON object.

The others need an environment of their own; what is not in it is left out, and said to be::

    python -m venv peers
    peers/bin/pip install FlagEmbedding==1.4.2 'transformers<5' 'bge-m3-lite[quant]==0.6.2'
    peers/bin/pip install m3serve==0.2.3  # only for --gpu
    python -m benchmarks.peers FOLDER --peers peers/bin/python

``--gpu`` adds onnxruntime (CUDA), torch and m3serve in float16, whose memory on the GPU is not measured. m3serve needs
rows of the encoder's width (``--colbert-dim``).

The checkpoint has m3-small's size unless told otherwise, and the shipped tokenizer cut to ``--vocabulary`` pieces.
BGE-M3's size is ``--layers 24 --width 1024 --colbert-dim 1024 --vocabulary 250002``, of which 190,000 rows have a
piece; bge-m3-lite runs no other layers and width, and its tools take 12 GB of memory with 32,000 pieces. FOLDER keeps
what was made for another run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import numpy as np
import tokenizers
import typer

from benchmarks._peer import GPU, GPU_PEERS, LONGEST, OURS, PEERS, PREPARE_LITE, Work
from benchmarks.common import CORPUS, MACHINE, known, text_table
from benchmarks.convert import BGE_M3, write_checkpoint
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.encoding.runtimes import choose_runtime
from m3_vdb.encoding.tokenizer import TOKENIZER, Tokenizer
from m3_vdb.types import M3Embedding
from onnx_export.checkpoint import Shape, read_checkpoint
from onnx_export.export import convert, read_weights
from onnx_export.reference import embed
from train.import_base import tokenizer_json
from train.import_bundle import restore_tokenizer

Result = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parents[1]
CASES: Final[Mapping[str, tuple[int, int]]] = {
    "1 x 16": (1, 16),
    "8 x 128": (8, 128),
    "mixed": (0, 0),
    "1 x 8192": (1, 8192),
}
"""Name → (texts, tokens of each), in the order they are run; "mixed" has documents as they are."""
PRECISIONS: Final = ("fp32", "int8")
GPU_PRECISION: Final = "fp16"
MEMORY: Final = ("anonymous_mib", "mapped_mib")
SAMPLES: Final = 16
"""Documents whose vectors are compared."""
INSTRUCTIONS: Final = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Instruction sets that decide which arithmetic is fast, as Linux names them."""


def prepare(folder: Path, shape: Shape, colbert_dim: int, precisions: Sequence[str]) -> None:
    """The checkpoint and its bundles of these precisions, where they are missing.

    Raises:
        typer.BadParameter: the folder has a checkpoint of another shape.
    """
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        write_checkpoint(checkpoint, shape, colbert_dim=colbert_dim, tokenizer_json=cut_tokenizer(shape.vocab_size))
    if (found := read_checkpoint(checkpoint).shape) != shape:
        raise typer.BadParameter(f"{checkpoint} is {found}, expected {shape}: choose another folder")
    for precision in precisions:
        if not (folder / precision).exists():
            typer.echo(f"converting to {precision}")
            convert(checkpoint, folder / precision, precision=precision)


def cut_tokenizer(size: int) -> str:
    """The shipped ``tokenizer.json`` with its first pieces, which are the most probable."""
    tree = json.loads(restore_tokenizer(find_bundle().read_tokenizer().to_json()))
    vocabulary = tree["model"]["vocab"]
    kept = [*vocabulary[: min(size, len(vocabulary)) - 1], vocabulary[-1]]
    return tokenizer_json([piece for piece, _ in kept], np.array([score for _, score in kept], np.float32))


def cases(checkpoint: Path, corpus: Path, *, documents: int, names: Sequence[str]) -> dict[str, list[str]]:
    """Name → texts: cut to a number of tokens, or documents as they are."""
    rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    texts: list[str] = [rows[i]["text"] for i in np.random.default_rng(0).permutation(len(rows))]
    pieces = tokenizers.Tokenizer.from_file(str(checkpoint / TOKENIZER))

    def count(text: str) -> int:
        return len(pieces.encode(text, add_special_tokens=False)) + 2

    def cut(start: int, length: int) -> str:
        text, i = texts[start], start
        while count(text) < length:
            i += 1
            text = f"{text} {texts[i % len(texts)]}"
        # The end of a text may be split otherwise when what follows is gone.
        ends = [end for _, end in pieces.encode(text, add_special_tokens=False).offsets[: length - 2]]
        return next(text[:end] for end in reversed(ends) if count(text[:end]) <= length)

    found = {name: [cut(i, length) for i in range(n)] for name, (n, length) in CASES.items() if length}
    return {name: found.get(name, texts[:documents]) for name in CASES if name in names}


def take_turns(commands: Mapping[str, list[str]], work: Work, folder: Path, rounds: int) -> dict[str, list[Result]]:
    """Results of every encoder; what is not there or fails is asked once and has one result that says why."""
    results: dict[str, list[Result]] = {name: [] for name in commands}
    for turn in range(rounds):
        for name, command in commands.items():
            if turn and (left_out := results[name][0].get("left_out")):
                continue
            result = run([*command, name], replace(work, vectors=str(folder / f"{name}.npz")), folder)
            results[name].append(result)
            if left_out := result.get("left_out"):
                typer.echo(f"{name} is left out: {left_out}")
    return results


def run(command: list[str], work: Work, folder: Path) -> Result:
    """What a fresh process answers."""
    given = folder / "work.json"
    given.write_text(json.dumps(asdict(work)), encoding="utf-8")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(
        [*command, str(given)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["nothing on standard error"]
        return {"left_out": f"it ended with {done.returncode}: {said[0]}"}
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def figures(results: Sequence[Result], tokens: Mapping[str, int]) -> Result:
    """Medians over the rounds of one encoder."""
    found: Result = {"about": results[0]["about"]}
    found["open_seconds"] = median(result["open_seconds"] for result in results)
    found["opened"] = {name: median(result["opened"][name] for result in results) for name in MEMORY}
    found["cases"] = {}
    for case, count in tokens.items():
        runs = [result["cases"][case] for result in results]
        seconds = median(run["seconds"] for run in runs)
        found["cases"][case] = {
            "tokens_per_s": round(count / seconds, 1),
            "ms": round(1000 * seconds, 2),
            **{name: median(run[name] for run in runs) for name in MEMORY},
        }
    return found


def compare(path: Path, expected: Sequence[M3Embedding]) -> Result:
    """Cosines of the vectors in a file to those of the definition, and the share of sparse ids that both have."""
    with np.load(path) as found:
        rows = np.concatenate([one.multi_vector for one in expected if one.multi_vector is not None])
        dense = np.stack([one.dense for one in expected if one.dense is not None])
        cosines = {"dense": (found["dense"] * dense).sum(-1), "rows": (found["rows"] * rows).sum(-1)}
        ids = {(i, token) for i, token, _ in found["sparse"].tolist()}
    theirs = {(i, token) for i, one in enumerate(expected) if one.sparse for token in one.sparse.ids.tolist()}
    result: Result = {"sparse_ids_shared": round(len(ids & theirs) / len(ids | theirs), 5) if ids | theirs else 1.0}
    for name, values in cosines.items():
        result[f"{name}_min"], result[f"{name}_mean"] = (round(float(v), 6) for v in (values.min(), values.mean()))
    return result


def processor() -> Result:
    """Name, cores and instruction sets of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    about = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = (about.get("flags") or about.get("Features") or "").split()
    return {
        "processor": about.get("model name", MACHINE),
        "cpus": os.cpu_count(),
        "instruction_sets": [name for name in INSTRUCTIONS if name in flags],
    }


def table(peers: Mapping[str, Result], case: str) -> str:
    """The encoders in one case; ratios of speed are to the first."""
    first = next(iter(peers.values()))["cases"][case]["ms"]
    rows = [["encoder", "ms", "tokens/s", "ratio", "anonymous MiB", "mapped MiB", "cosine, dense", "rows"]]
    for name, peer in peers.items():
        one, cosine = peer["cases"][case], peer["cosine"]
        rows.append(
            [
                name,
                f"{one['ms']:,.1f}",
                f"{one['tokens_per_s']:,.0f}",
                f"{first / one['ms']:.2f}",
                *(f"{one[kind]:,.0f}" for kind in MEMORY),
                *(f"{cosine[kind]:.5f}" for kind in ("dense_min", "rows_min")),
            ]
        )
    return text_table(rows)


def main(
    folder: Annotated[Path, typer.Argument(help="For the checkpoint and what is made of it.")],
    peers: Annotated[Path | None, typer.Option(help="Python that has the other encoders.")] = None,
    layers: Annotated[int, typer.Option()] = 12,
    width: Annotated[int, typer.Option(help="Of the encoder; a multiple of 64.")] = 384,
    colbert_dim: Annotated[int, typer.Option(help="Of a multi-vector row.")] = 96,
    vocabulary: Annotated[int, typer.Option(help="Pieces.")] = 190_000,
    documents: Annotated[int, typer.Option(help='Of the case "mixed".')] = 256,
    repeats: Annotated[int, typer.Option(help="Passes of a case in a process.")] = 3,
    rounds: Annotated[int, typer.Option(help="Processes per encoder.")] = 3,
    gpu: Annotated[bool, typer.Option("--gpu", help="Also on a GPU.")] = False,
    only: Annotated[str, typer.Option(help="Encoders, comma-separated. Default: all.")] = "",
    case: Annotated[str, typer.Option(help="Cases, comma-separated.")] = ",".join(CASES),
    corpus: Annotated[Path, typer.Option(help="JSONL with text.")] = CORPUS,
) -> None:
    """Compare the encoders on this machine."""
    load = [os.getloadavg()[0]]
    shape = replace(
        BGE_M3,
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // (64 if width >= 512 else 32),  # as BGE-M3 and m3-small have them
        intermediate_size=4 * width,
    )
    prepare(folder, shape, colbert_dim, [*PRECISIONS, GPU_PRECISION] if gpu else PRECISIONS)
    ours, others = (OURS | GPU, PEERS | GPU_PEERS) if gpu else (OURS, PEERS)
    commands = {name: [sys.executable, "-m", "benchmarks._peer"] for name in ours}
    if peers is None:
        typer.echo(f"left out: {', '.join(others)}: --peers names no Python that has them")
    else:
        commands |= {name: [str(peers.absolute()), "-m", "benchmarks._peer"] for name in others}
    if only:
        commands = {name: commands[name] for name in known(only.split(","), commands)}

    checkpoint = read_checkpoint(folder / "checkpoint")
    tokenizer = Tokenizer(checkpoint.read_tokenizer())
    texts = cases(folder / "checkpoint", corpus, documents=documents, names=known(case.split(","), CASES))
    samples = cases(folder / "checkpoint", corpus, documents=SAMPLES, names=["mixed"])["mixed"]
    tokens = {name: len(tokenizer.encode(found, max_length=LONGEST).ids) for name, found in texts.items()}
    expected = embed(read_weights(checkpoint), tokenizer.encode(samples, max_length=LONGEST))
    with tempfile.TemporaryDirectory() as made:
        work = Work(str(folder.absolute()), texts, samples, repeats, "")
        lite = [command for name, command in commands.items() if name.startswith("bge-m3-lite")]
        if lite and (why := run([*lite[0], PREPARE_LITE], work, Path(made)).get("left_out")):
            typer.echo(f"no graph for bge-m3-lite: {why}")
        results = take_turns(commands, work, Path(made), rounds)
        found = {
            name: figures(runs, tokens) | {"cosine": compare(Path(made, f"{name}.npz"), expected)}
            for name, runs in results.items()
            if "left_out" not in runs[0]
        }
    for name in texts if found else ():
        typer.echo(f"\n{name}: {tokens[name]:,} tokens\n{table(found, name)}")
    default = choose_runtime()
    typer.echo(
        json.dumps(
            {
                "benchmark": "peers",
                **processor(),
                "load_average": [round(one, 2) for one in (*load, os.getloadavg()[0])],
                "default_runtime": f"{default.name} ({default.reason})",
                "checkpoint": {"layers": layers, "width": width, "colbert_dim": colbert_dim, "vocabulary": vocabulary},
                "rounds": rounds,
                "repeats": repeats,
                "tokens": tokens,
                "peers": found,
                "left_out": {name: runs[0]["left_out"] for name, runs in results.items() if "left_out" in runs[0]}
                | {name: "--peers names no Python that has it" for name in others if peers is None},
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
