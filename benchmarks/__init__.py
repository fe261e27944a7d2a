"""Ratios against the limit, measured in the same run on the same machine.

`make bench` runs them.
"""

import os

# A command that is installed is compiled. To compile what a rebuild imports takes as long as to
# fold 200,000 events, so processes here keep it, whatever is set on this machine.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
