"""Statistics of the cohort: each command reads plain tables and leaves a table, a JSON file and a figure."""
