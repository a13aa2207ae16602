"""Entry point of ``python -m corrsk.cli``."""

from corrsk.cli import main

if __name__ == "__main__":
    main()
