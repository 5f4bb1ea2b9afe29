"""The messages of the gRPC API; `make proto` writes the module from the .proto file."""
