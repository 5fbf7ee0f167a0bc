"""Texts in four languages, a collection in memory, and one fused query: ``python examples/quickstart.py``."""

from m3_vdb import Document, HybridIndex

DOCUMENTS = [
    Document("en-1", "The formula bar is hidden by removing the check mark in the View menu."),
    Document("de-1", "Ein Makro wird über Extras – Makros aufgezeichnet und später abgespielt."),
    Document("zh-1", "通过“工具”菜单中的“选项”可以更改用户界面的语言。"),
    Document("ru-1", "Таблицу можно экспортировать в файл PDF с защитой паролем."),
]

with HybridIndex.open("memory://") as index:
    index.add(DOCUMENTS)
    for question in ("Wie ändere ich die Sprache der Oberfläche?", "password for a PDF", "record a macro"):
        best = index.query(question, limit=1, explain=True)[0]
        print(f"{question}\n  {best.score:.3f}  {best.document.text}\n  {best.parts}")
