"""Getting released files here: which a configuration needs, where each lies on the web, and the download itself."""
