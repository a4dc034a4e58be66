"""What `keyledger doctor`, `/readyz` and `/statusz` look at.

A check is a function that looks at an installation and yields findings, in the module of what it looks at.
`examination.CHECKS` has a row for each, which says whom it concerns: that is the one place to add another.
"""
