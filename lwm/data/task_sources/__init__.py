"""Where the samples of the eight tasks come from: files of packages that install anywhere, read as they are.

stamps.py       pictures with captions and categories (Debian tuxpaint-stamps-default)
verses.py       aligned verses, Spanish and English (Debian sword-text-sparv, sword-text-kjv)
names.py        names of emoji, languages, currencies, … in English and French (Debian unicode-cldr-core)
prompts.py      spoken English prompts with their transcripts (Debian asterisk-core-sounds-en-wav, -en)
expressions.py  expressions of Python's standard library and their trees
reading.py      what all of them are told

`launch/task_sources.sh FOLDER` lays out the packages as they are looked for here.
"""
