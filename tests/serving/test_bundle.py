from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from m3_vdb.encoding.bundle import (
    CHECKSUMS,
    CONFIG,
    DEFAULT_MODEL,
    MODEL,
    TOKENIZER,
    Bundle,
    fingerprint,
    sha256,
    write_checksums,
)
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.errors import BundleError

FILES = (MODEL, TOKENIZER, CONFIG, CHECKSUMS)


@pytest.fixture
def bundle_path(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def flip_byte(path: Path, where: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 0x40
    path.write_bytes(bytes(content))


def change_config(path: Path, **changes: object) -> None:
    config = json.loads((path / CONFIG).read_text(encoding="utf-8")) | changes
    (path / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if v is not None}), encoding="utf-8")
    write_checksums(path)


def test_an_opened_bundle_describes_its_model(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    assert (bundle.name, bundle.precision, bundle.path) == ("tiny", "fp32", tiny_bundle)
    assert (bundle.dense_dim, bundle.multi_vector_dim, bundle.max_length) == (64, 16, 64)
    assert bundle.vocab_size > 200
    assert bundle.config["errors"]["dense"] < 1e-5
    assert len(bundle.fingerprint) == 16
    assert int(bundle.fingerprint, 16) > 0


def test_the_identity_is_what_a_collection_remembers(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    identity = bundle.identity
    assert (identity.name, identity.fingerprint) == ("tiny", bundle.fingerprint)
    assert (identity.dense_dim, identity.multi_vector_dim) == (64, 16)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_flipped_byte_in_any_file_is_found(bundle_path, name, where):
    flip_byte(bundle_path / name, where)
    with pytest.raises(BundleError, match=r"damaged|incomplete|lacks"):
        Bundle.open(bundle_path)


def test_every_flipped_byte_of_the_checksums_is_found(bundle_path):
    original = (bundle_path / CHECKSUMS).read_bytes()
    for place in range(len(original)):
        damaged = bytearray(original)
        damaged[place] ^= 0x40
        (bundle_path / CHECKSUMS).write_bytes(damaged)
        with pytest.raises(BundleError):
            Bundle.open(bundle_path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle_path, name):
    (bundle_path / name).unlink()
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        Bundle.open(bundle_path)


def test_an_empty_list_of_checksums_protects_nothing_and_is_refused(bundle_path):
    (bundle_path / CHECKSUMS).write_text("")
    with pytest.raises(BundleError, match="damaged or incomplete"):
        Bundle.open(bundle_path)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_is_refused_with_both_numbers(bundle_path, version):
    change_config(bundle_path, format=version)
    with pytest.raises(BundleError, match=f"bundle format {version}, this version reads 1"):
        Bundle.open(bundle_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"format"'])
def test_a_config_that_is_no_json_object_is_refused(bundle_path, content):
    (bundle_path / CONFIG).write_text(content, encoding="utf-8")
    write_checksums(bundle_path)
    with pytest.raises(BundleError, match=r"m3_config\.json is damaged"):
        Bundle.open(bundle_path)


@pytest.mark.parametrize("field", ["name", "dense_dim", "max_length"])
def test_a_config_without_a_field_names_it(bundle_path, field):
    change_config(bundle_path, **{field: None})
    with pytest.raises(BundleError, match=f"lacks {field}"):
        Bundle.open(bundle_path)


def test_verify_finds_damage_after_opening(bundle_path):
    bundle = Bundle.open(bundle_path)
    bundle.verify()
    flip_byte(bundle_path / MODEL, 0.7)
    with pytest.raises(BundleError, match=r"model\.onnx is damaged"):
        bundle.verify()


def test_a_large_bundle_is_hashed_by_verify_alone(bundle_path, monkeypatch):
    from m3_vdb.encoding import bundle as module

    monkeypatch.setattr(module, "HASH_LIMIT", 1000)
    flip_byte(bundle_path / MODEL, 0.7)
    bundle = Bundle.open(bundle_path)
    with pytest.raises(BundleError, match="is damaged"):
        bundle.verify()


@pytest.mark.parametrize("name", [MODEL, TOKENIZER])
def test_other_model_or_tokenizer_bytes_change_the_fingerprint(tiny_bundle, bundle_path, name):
    flip_byte(bundle_path / name, 0.7)
    write_checksums(bundle_path)
    assert Bundle.open(bundle_path).fingerprint != Bundle.open(tiny_bundle).fingerprint


def test_weights_beside_the_graph_change_the_fingerprint(tiny_bundle, bundle_path):
    (bundle_path / f"{MODEL}.data").write_bytes(b"weights")
    write_checksums(bundle_path)
    assert Bundle.open(bundle_path).fingerprint != Bundle.open(tiny_bundle).fingerprint


def test_another_config_keeps_the_fingerprint(tiny_bundle, bundle_path):
    change_config(bundle_path, name="renamed")
    renamed = Bundle.open(bundle_path)
    assert (renamed.name, renamed.fingerprint) == ("renamed", Bundle.open(tiny_bundle).fingerprint)


def test_the_fingerprint_ignores_the_order_of_the_files():
    sums = {MODEL: "a" * 64, TOKENIZER: "b" * 64}
    assert fingerprint(sums) == fingerprint(dict(reversed(sums.items())))
    assert fingerprint(sums) != fingerprint({MODEL: "b" * 64, TOKENIZER: "a" * 64})


def test_sha256_is_that_of_the_standard(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


@pytest.mark.parametrize("model", [None, DEFAULT_MODEL])
def test_the_default_model_ships_and_is_found_by_name(model):
    bundle = find_bundle(model)
    assert bundle.path.name == DEFAULT_MODEL
    assert bundle.max_length >= 512


@pytest.mark.parametrize("kind", [str, Path])
def test_a_bundle_is_found_by_path(tiny_bundle, kind):
    assert find_bundle(kind(tiny_bundle)).path == tiny_bundle


@pytest.mark.parametrize("model", ["m3-smal", "./nowhere", "/no/such/dir", "a/b/c", Path("org/name")])
def test_an_unknown_model_lists_the_models_that_there_are(model):
    with pytest.raises(BundleError, match=rf"no model '{model}'.*one of .*{DEFAULT_MODEL}"):
        find_bundle(model)


def test_a_directory_without_a_bundle_says_how_to_make_one(tmp_path):
    with pytest.raises(BundleError, match="python -m onnx_export"):
        find_bundle(tmp_path)
