"""The commands: one thin file each. Its docstring is its help, ``command`` is its body, one call into
:mod:`sift_cli.api`."""
