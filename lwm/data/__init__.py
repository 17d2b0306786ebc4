"""Real files in, packed and sharded batches out. NumPy, Grain, TFDS without TensorFlow; no model.

a user's folder --inputs--> items --video, tokenizers--> frames, ids --datasets--> TFDS (ArrayRecord)
TFDS --streams--> examples --packing--> rows --pipeline--> one flat dict of arrays, the Batch
frames --clip_frames--> clips --clip_questions--> the same with frames beside the text

inputs.py        what a folder holds: media files, text documents, JSON lines; what in it is broken
fields.py        the field syntax "[vision+question],answer" and the chat template
splits.py        which documents and which frames are held out
video.py         frames of a video by time, images; resized and cropped to squares
tokenizers.py    bytes, SentencePiece; tokenizer_json.py: the tokenizers of converted models
recipes.py       how records are made and written, here or by workers.py: processes or machines on Beam
datasets.py      the two TFDS builders and their readers: Frames, Documents
manifest.py      data.json and what was asked of `python -m lwm.prepare`
preparation.py   the work of `python -m lwm.prepare`
streams.py       documents of one source in shuffled order, each visit made an Example
packing.py       Examples to rows with segments, positions and loss weights
pipeline.py      rows to batches: mixture, lanes, hosts, zigzag, state
clips.py         clips with odd frames in them: what is put where, and who could know the answer
clip_frames.py   such clips of the real frames of a data folder
clip_questions.py  batches of questions about them: text, frames and who sees which
task_sources/    samples of eight tasks as real packages hold them; tasks.py: which task reads what
task_records.py  the third TFDS builder: samples of any task; task_preparation.py: the work of making them
waveforms.py     WAV files, resampled
task_mixture.py  rows of a step by task; task_rows.py: records to rows; task_batches.py: rows to batches
interleaved.py   documents of text and pictures as a manifest tells them; what in it is wrong
interleaved_records.py      the fourth TFDS builder; interleaved_preparation.py: the work of making them
interleaved_forms.py        what can become of such a document; interleaved_pieces.py: as ids, cut to rows
interleaved_rows.py         pieces to rows; interleaved_batches.py: rows to batches
progress.py      a bar on a terminal, lines in a log
"""
