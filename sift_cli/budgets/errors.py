"""What is wrong with a configuration, an option or a baseline of ``sift check``."""

from __future__ import annotations

from sift_cli.errors import SiftError


class ConfigError(SiftError):
    """A usage error that is found in a file as well as on the command line, and so has the exit code of one."""

    exit_code = 2
