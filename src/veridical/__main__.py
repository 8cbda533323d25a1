"""`python -m veridical`, which is what launchers of several processes like to start."""

import sys

from veridical.cli.dispatch import main

if __name__ == "__main__":
    sys.exit(main())
