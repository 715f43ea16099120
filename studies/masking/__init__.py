"""What the harness says of purifiers that hide their weakness, and of honest ones."""
