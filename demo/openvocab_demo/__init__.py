"""The demo page, over the public names of openvocab; started by `openvocab demo`."""
