"""The command line ``shardpool``: one file per noun, on top of everything else.

A command collects *facts*, a document of plain values, and `output.show` either prints them as JSON or lets the
command's own `picture` draw them: so that both say the same. What goes wrong is raised; `entry` turns it into one line
and an exit code (`failures`).

Commands import what they need when they run: the help and a mistyped option must not wait for a database driver.
"""

from shardpool.cli.entry import main

__all__ = ["main"]
