"""Where the time goes, against a plain implementation and the machine's matrix peak."""
