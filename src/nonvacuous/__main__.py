"""``python -m nonvacuous`` is ``nonvacuous``."""

from nonvacuous.cli import main

if __name__ == "__main__":
    main(prog_name="nonvacuous")
