"""XLM-RoBERTa's ``tokenizer.json``, written from a list of pieces or from a SentencePiece model.

Some checkpoints have ``sentencepiece.bpe.model`` alone. What is written here reads every text as Hugging Face's own
conversion of that file does; ``encoding.tokenizer`` then uses it like any other.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from m3_vdb.encoding.model_files import check_file, damaged
from m3_vdb.encoding.tokenizer import CLS, CONTROL_PIECES, SEP
from m3_vdb.errors import BundleError, MissingExtraError

SENTENCEPIECE: Final = "sentencepiece.bpe.model"
"""Its name in XLM-R's repositories, though the model in it is a Unigram one."""
UNIGRAM: Final = 1


def read_sentencepiece(path: Path) -> str:
    """The content of a ``tokenizer.json`` for a SentencePiece model of XLM-R.

    Its ids are fairseq's: ``<s>``, ``<pad>``, ``</s>``, ``<unk>``, then SentencePiece's pieces without its own control
    pieces, which are the first three, then ``<mask>``.

    Raises:
        BundleError: the file is damaged or of another kind of tokenizer.
        MissingExtraError: ``sentencepiece`` is not installed.
    """
    check_file(path)
    if find_spec("sentencepiece") is None:
        raise MissingExtraError(f"{path.name} without a tokenizer.json", extra="export")
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2  # a module made by protobuf at import, without types
    try:
        model = proto.ModelProto.FromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError, which is of no public module
        raise damaged(path, error) from error
    own = [piece.piece for piece in model.pieces[:3]]
    if model.trainer_spec.model_type != UNIGRAM or own != ["<unk>", "<s>", "</s>"]:
        raise BundleError(f"{path} is not XLM-RoBERTa's SentencePiece model: give the tokenizer of an M3 model")
    pieces = [(piece.piece, piece.score) for piece in model.pieces[3:]]
    listed = [*((piece, 0.0) for piece in CONTROL_PIECES[:4]), *pieces, (CONTROL_PIECES[4], 0.0)]
    return tokenizer_json(*zip(*listed, strict=True), charsmap=model.normalizer_spec.precompiled_charsmap)


def tokenizer_json(pieces: Sequence[str], scores: Sequence[float], *, charsmap: bytes) -> str:
    """The file's content.

    Args:
        pieces: of the vocabulary, in the order of their ids.
        scores: log probabilities of the pieces.
        charsmap: SentencePiece's table of normalised characters.
    """
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    tree: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": None,
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": 3,
            "vocab": [[piece, score] for piece, score in zip(pieces, scores, strict=True)],
            "byte_fallback": False,
        },
    }
    with_control_tokens(tree)
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))


def with_control_tokens(tree: dict[str, Any]) -> None:
    """Give a ``tokenizer.json`` its control tokens and the template ``<s> … </s>``, as Hugging Face has them.

    Added tokens that are there stay.
    """
    vocab = tree["model"]["vocab"]
    ids = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template.append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    specials = {piece: {"id": piece, "ids": [i], "tokens": [piece]} for i, piece in ((CLS, "<s>"), (SEP, "</s>"))}
    control = [_added_token(ids[piece], piece) for piece in CONTROL_PIECES if piece in ids]
    tree["added_tokens"] = sorted([*control, *tree["added_tokens"]], key=lambda token: int(token["id"]))
    tree["post_processor"] = {
        "type": "TemplateProcessing",
        "single": template,
        "pair": [*template, template[2], {"Sequence": {"id": "B", "type_id": 0}}, template[2]],
        "special_tokens": specials,
    }


def _added_token(token_id: int, piece: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": piece == "<mask>", "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": piece, **flags}
