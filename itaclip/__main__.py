"""`python -m itaclip` runs the command `itaclip`."""

from itaclip.apps.command.main import entry

if __name__ == "__main__":
    entry()
