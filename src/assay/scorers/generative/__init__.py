"""Language models that write a critique and a verdict, as scorers: Assay's own forms, and those that others publish."""
