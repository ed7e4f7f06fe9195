"""Wire schemas as our own .proto files, with the code generated from them."""
