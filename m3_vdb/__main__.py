"""``python -m m3_vdb``: the same as ``m3-vdb``."""

from m3_vdb.cli.main import main

main()
