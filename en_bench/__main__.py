"""`python -m en_bench`: the same as `en-bench`."""

from en_bench.cli import entry

if __name__ == "__main__":
    entry()
