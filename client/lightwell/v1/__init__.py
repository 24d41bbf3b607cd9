"""The generated messages and stubs of the package `lightwell.v1`."""
