"""The command line: `itaclip segment`, `eval`, `demo`, `serve`, `env`."""
