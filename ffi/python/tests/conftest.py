from harness import job  # noqa: F401  (a fixture)
