"""A searchable index of images on disk: build, update, query, web page (`embed`, `index`, `search`, `serve`)."""
