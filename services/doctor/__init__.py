"""The examination that `keyledger doctor`, `/readyz` and `/statusz` run.

Here are the checks of the settings, this machine, the store and the ledger; each service brings its own, as
`checks` of its manifest.
"""
