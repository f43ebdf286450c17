"""A searchable index of images on disk: build, query, contact sheet and web page of `embed`, `search` and `serve`."""
