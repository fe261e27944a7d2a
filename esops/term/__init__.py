"""What a person or a pipe gets to see: results on stdout, progress and logs on stderr.

Nothing else in esops prints: jobs return data, and the command hands it to `Output`.
"""

from esops.standard_streams import kept_for_results
from esops.term.logs import set_up_logging
from esops.term.options import GlobalOptions
from esops.term.output import Format, Output
from esops.term.progress import ProgressLine
from esops.term.values import cell, duration, to_json

__all__ = [
    "Format",
    "GlobalOptions",
    "Output",
    "ProgressLine",
    "cell",
    "duration",
    "kept_for_results",
    "set_up_logging",
    "to_json",
]
