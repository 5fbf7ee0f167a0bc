"""Which strings of a gettext catalogue become training texts: a catalogue written here, no network."""

import io

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo

from benchmarks.debian import catalogs

PATH = "usr/lib/libreoffice/program/resource/pt_BR/LC_MESSAGES/sw.mo"


def catalogue(*strings: tuple[str, str, str]) -> bytes:
    """A binary catalogue of (context, English, translation)."""
    made = Catalog(locale="pt_BR")
    for context, english, text in strings:
        made.add(english, text, context=context)
    out = io.BytesIO()
    write_mo(out, made)
    return out.getvalue()


def test_a_string_is_read_with_its_original_and_language() -> None:
    content = catalogue(("tablemenu|insert", "_Insert Table...", "_Inserir tabela..."))
    ((lang, message),) = catalogs.messages([(PATH, content)])
    assert (lang, message.text, message.english) == ("pt-br", "Inserir tabela", "Insert Table")


def test_the_same_english_string_is_one_concept_in_every_place() -> None:
    content = catalogue(("one", "_Name:", "Nome:"), ("two", "Name", "O nome"))
    assert len({message.concept_id for _, message in catalogs.messages([(PATH, content)])}) == 1


@pytest.mark.parametrize(
    "string",
    [
        ("page|extended_tip|width", "Enter the width.", "Insira a largura."),  # a sentence of the help
        ("same", "Firebird", "Firebird"),
        ("untranslated", "Table", ""),
        ("placeholder", "Delete $(ARG1)", "Excluir $(ARG1)"),
        ("short", "A", "O"),
        ("digits", "100", "cem"),
    ],
)
def test_what_says_nothing_or_belongs_to_the_help_is_left_out(string: tuple[str, str, str]) -> None:
    assert not list(catalogs.messages([(PATH, catalogue(string))]))


def test_other_files_of_a_package_are_passed_over() -> None:
    assert not list(catalogs.messages([("usr/share/doc/x.mo", b"not a catalogue")]))


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        ("Form control~s", "Form controls"),
        ("表(_T)...", "表"),
        ("Nome do arquivo:", "Nome do arquivo"),
        ("a_b", "ab"),
        ("Wait…", "Wait"),
        ("two\n lines", "two lines"),
    ],
)
def test_a_string_is_trained_on_as_it_is_seen(message: str, seen: str) -> None:
    assert catalogs.plain(message) == seen
