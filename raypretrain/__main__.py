"""``python -m raypretrain``: the command under this interpreter, whatever else is in the path."""

from raypretrain.cli import main

if __name__ == "__main__":
    main()
