"""A searchable index of images on disk: built, updated, queried, shown on a web page (`embed`, `index`, `search`, `serve`)."""
