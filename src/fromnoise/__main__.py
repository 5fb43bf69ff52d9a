"""`python -m fromnoise` is the command `fromnoise`."""

from fromnoise.cli import app

if __name__ == "__main__":
    app(prog_name="fromnoise")
