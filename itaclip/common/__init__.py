"""Ground floor: the console, pictures, the drawn town of the demo, versions, progress."""
