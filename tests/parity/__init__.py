"""Our model and losses against numbers that the released code gave: `python -m tests.parity FILE`."""
