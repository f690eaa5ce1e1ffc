"""Evidence: from the feature tables of an audit to figures with intervals, under their public names.

Everything here is arithmetic on small tables. Whatever cannot be measured is left out with a note that says why: a
rule that needs it then fails, and the reader knows the reason.
"""
