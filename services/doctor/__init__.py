"""What `keyledger doctor` looks at, and what it says of it.

A check is a function that looks at an installation and yields findings, in the module of what it looks at.
`examination.CHECKS` names them all: that is the one place where another has to be added.
"""
