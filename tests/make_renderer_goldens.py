"""Makes tests/renderer_goldens.json.xz out of the goldens of ../shared: conversations, what the official
templates and openai-harmony make of them, and as much of three tokenizers (Qwen3, SmolLM2, gpt-oss:
Apache-2.0) as these texts need.

    python tests/make_renderer_goldens.py GOLDENS HARMONY.json

GOLDENS: the folder of goldens_public.json.gz and tokenizers.tar.xz. HARMONY.json: {conversation id:
{"prompt": ids}} of openai-harmony 0.0.8 (`render_conversation_for_completion`, medium effort, date
2025-08-05), for the conversations with tools.
"""

from __future__ import annotations

import gzip
import itertools
import json
import lzma
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

FAMILIES = ("role_colon@qwen3", "qwen3", "smollm2", "gpt_oss")
"""Which renderers of the goldens are kept: those whose names begin so, vision aside."""


def main(goldens: Path, harmony: Path) -> None:
    data = json.loads(gzip.decompress((goldens / "goldens_public.json.gz").read_bytes()))
    names = [
        n
        for n in data["renderers"]
        if n.startswith(FAMILIES) and "_5" not in n and "_8" not in n and "_vl" not in n
    ]
    renderers = {name: entry(name, data["renderers"][name]) for name in names}
    conversations = {c["id"]: c for c in data["conversations"] if not c.get("images")}
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(goldens / "tokenizers.tar.xz") as tar:
        tar.extractall(scratch, filter="data")
        folders = {r["tokenizer"] for r in renderers.values()}
        used = {folder: texts(data["renderers"], folder) for folder in folders}
        tokenizers = {
            folder: pruned(Path(scratch, "tokenizers", folder, "tokenizer.json"), used[folder])
            for folder in folders
        }
    kept = {"conversations": conversations, "renderers": renderers, "tokenizers": tokenizers}
    kept["harmony"] = json.loads(harmony.read_text())
    out = Path(__file__).parent / "renderer_goldens.json.xz"
    out.write_bytes(lzma.compress(json.dumps(kept, ensure_ascii=False).encode(), preset=9))
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB, {', '.join(names)}")


def entry(name: str, renderer: dict[str, Any]) -> dict[str, Any]:
    """Of a renderer's cases the tokens that are right: the template's, else the reference's."""
    bare = name == "gpt_oss_no_sysprompt"  # the template always writes a system message
    cases = {case["case"]: wanted({**case, "hf": {}} if bare else case) for case in renderer["cases"]}
    return {"tokenizer": renderer["tokenizer"], "cases": cases}


def wanted(case: dict[str, Any]) -> dict[str, list[int]]:
    """The tokens of the prompt and of the supervised example, where there are any."""
    found: dict[str, list[int]] = {}
    for what in ("prompt", "supervised"):
        template = case.get("hf", {}).get(what)
        source = template if isinstance(template, dict) else case.get(what) or {}
        if source.get("tokens"):
            found[what] = source["tokens"]
    return found


def texts(renderers: dict[str, Any], folder: str) -> list[str]:
    """All texts that a tokenizer's goldens hold."""
    found: list[str] = []
    for renderer in renderers.values():
        if renderer["tokenizer"] == folder:
            for case in renderer["cases"]:
                for what in ("prompt", "supervised"):
                    for source in (case.get(what), case.get("hf", {}).get(what)):
                        if isinstance(source, dict) and "text" in source:
                            found.append(source["text"])
    return [*found, *" \n\t0123456789"]


def pruned(file: Path, used: list[str]) -> dict[str, Any]:
    """The tokenizer less what these texts don't need, literal or not. They are encoded as before, since a
    merge that never applies can't come before one that does; ids stay."""
    whole = json.loads(file.read_text())
    model = whole["model"]
    ranks = {
        tuple(merge if isinstance(merge, list) else merge.split(" ")): n
        for n, merge in enumerate(model["merges"])
    }
    controls = {token["content"]: token["id"] for token in whole["added_tokens"]}
    literal = Tokenizer.from_file(str(file))
    whole_words = model.get("ignore_merges")
    tokens: set[str] = {token for token in model["vocab"] if len(token) == 1}
    merges: set[tuple[str, str]] = set()
    for piece in {piece for text in used for piece in cut(text, controls)}:
        normal = literal.normalizer.normalize_str(piece) if literal.normalizer else piece
        for word, _ in literal.pre_tokenizer.pre_tokenize_str(normal):
            if whole_words and word in model["vocab"]:
                tokens.add(word)
                continue
            parts = list(word)
            while pairs := [(ranks[pair], pair) for pair in itertools.pairwise(parts) if pair in ranks]:
                pair = min(pairs)[1]
                merges.add(pair)
                parts = merged(parts, pair)
            tokens.update(parts)
    for pair in merges:
        tokens.update((*pair, "".join(pair)))
    model["vocab"] = {**{t: model["vocab"][t] for t in sorted(tokens, key=model["vocab"].get)}, **controls}
    model["merges"] = [list(pair) for pair in sorted(merges, key=ranks.get)]
    return whole


def cut(text: str, controls: dict[str, int]) -> list[str]:
    """The text itself, for literal encoding, and what stands between its control tokens."""
    pieces = [text]
    for control in controls:
        pieces = [part for piece in pieces for part in piece.split(control)]
    return [text, *pieces]


def merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(parts):
        if tuple(parts[i : i + 2]) == pair:
            out.append("".join(pair))
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
