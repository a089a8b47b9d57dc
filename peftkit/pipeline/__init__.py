"""The stages that jobs compose: build, train, evaluate, export, verify, costs."""
