"""The commands of ``m3-vdb``, one file per command or family of commands."""
