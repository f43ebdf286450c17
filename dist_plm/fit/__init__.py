"""From images to a searchable index in one command: chooses settings for machine and images, runs all parts."""
