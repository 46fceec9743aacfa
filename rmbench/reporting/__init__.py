"""Run folders in; tables, verdicts, figures and a page out."""
