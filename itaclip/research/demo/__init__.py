"""What the scripts that train the demo's weights share."""
