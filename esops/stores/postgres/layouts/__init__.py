"""The table layouts of libraries: finding.py knows them all, and base.py says what one is."""
