"""A model as a whole: which engine, which chat template, which defaults. Knows no HTTP."""
