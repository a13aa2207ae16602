"""``python -m corrsk.cli`` runs the `corrsk` command."""

from corrsk.cli import main

if __name__ == "__main__":
    main()
