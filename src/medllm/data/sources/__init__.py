"""Where rows come from: files in the usual table formats, and data sets on the hub, read as streams."""
