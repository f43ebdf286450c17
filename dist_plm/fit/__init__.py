"""From images to a searchable index in one command: looks at machine and images, chooses the settings, runs all parts."""
