"""What a trained model can do: each `evaluate(...)` takes plain functions and arrays and yields findings.

Held-out numbers, pairs of (name, value): perplexity.py codes.py needle.py reconstruction.py, with rows.py.
Answers of many tasks: text_scores.py, and what they have to beat, task_baselines.py.
Pictures, by a classifier that has no part in them: creation.py.
Suites over long contexts, rows for JSON lines with 95 % intervals: needle_grid.py multi_needle.py ruler.py
positions.py video_qa.py, which share haystack.py (questions), cells.py (answers) and figures.py.
"""
